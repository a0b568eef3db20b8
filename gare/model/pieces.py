"""Build tokenizers of SentencePiece's kinds (SigLIP, MetaCLIP 2) from their tables of pieces alone."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from gare.common.errors import InputError
from gare.common.files import write_json
from gare.common.records import is_number, parse_object, read_object, read_small
from gare.common.redact import first_line, shown
from gare.model.tokenizer import RECORD, Cleaning, Tokenizer, canonical, recorded_cleaning
from gare.model.vocabulary import SETTINGS, TOKENIZER, UnfitError, added_tokens, check_added, piece_ids, piece_pairs

MAX_BYTES = 96 * 2**20
MAX_MARKS = 12_000_000
"""Most brackets, quotes and commas of a tokenizer.json, which determine its memory; XLM-V's has about 5 million."""
MAX_PIECES = 12 * 2**20
"""Most bytes of all unigrams together (XLM-V has 10 MiB): the tokenizers library needs about 100 for each."""
SPACE, UNKNOWN = "\u2581", "<unk>"
START, PAD, ENDS = "<s>", "<pad>", ("<eos>", "</s>")
LEAF = 2**31
"""The mark of a leaf's unit in a double-array trie."""
PROPERTIES = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Pieces:
    """The tables of a tokenizer. ``merges``: of byte pairs (Gemma's), empty for unigrams, which have ``scores``.

    ``charsmap``: SentencePiece's table for normalising characters. ``added``: tokens that are found in a text before it
    is cut into pieces, with their properties.
    """

    ids: Mapping[str, int]
    merges: list[tuple[str, str]]
    scores: list[float]
    charsmap: bytes
    added: Mapping[str, tuple[str, ...]]

    @property
    def kind(self) -> str:
        """Return the name of the kind in tokenizer.json."""
        return "Unigram" if self.scores else "BPE"


class PieceTokenizer(Tokenizer):
    """A tokenizer of pieces that begin with their space. ``CLEANING``: kind -> how its texts are cleaned."""

    CLEANING: ClassVar[Mapping[str, Cleaning]]

    def __init__(self, pieces: Pieces, cleaning: Cleaning) -> None:
        self._vocabulary: Any = pieces
        self._encoder = _encoder(pieces)
        self.start_id = 0 if pieces.ids.get(START) == 0 else None
        self.end_id = next(pieces.ids[mark] for mark in ENDS if mark in pieces.ids)
        self.pad_id = pieces.ids.get(PAD, self.end_id)
        self.cleaning = cleaning

    @classmethod
    @override
    def load(cls, folder: str | Path, unrecorded: Cleaning = "openai") -> Tokenizer:
        """Load the tokenizer in a folder's tokenizer.json; InputError if it is missing or of another kind."""
        del unrecorded  # these were never saved without a record
        folder = Path(folder)
        try:
            pieces = _read(folder, tuple(cls.CLEANING))
            cleaning = cls.CLEANING[pieces.kind]
            return cls(pieces, recorded_cleaning(folder, cleaning, (cleaning,)))
        except UnfitError as unfit:
            raise InputError(f"{folder} holds no tokenizer of this kind of CLIP: {unfit}.") from None

    @override
    def save(self, folder: Path) -> None:
        from tokenizers import processors

        names = {id_: mark for mark in (PAD, *ENDS, START) if (id_ := self._vocabulary.ids.get(mark)) is not None}
        marks = {"bos_token": self.start_id, "eos_token": self.end_id, "pad_token": self.pad_id}
        given = {key: names[id_] for key, id_ in marks.items() if id_ is not None}
        around = [*([] if self.start_id is None else [START]), "$A", given["eos_token"]]
        self._encoder.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[(mark, id_) for id_, mark in names.items()]
        )
        self._encoder.save(str(folder / TOKENIZER), pretty=False)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right", "unk_token": UNKNOWN}
        write_json(folder / SETTINGS, settings | given | {RECORD: self.cleaning})

    @override
    def _clean_by(self, cleaning: Cleaning) -> None:
        from tokenizers import normalizers

        steps: list[Any] = [normalizers.Lowercase()] if cleaning == "lower" else []
        if self._vocabulary.merges:
            steps.append(normalizers.Replace(" ", SPACE))
        if self._vocabulary.charsmap:
            steps.append(normalizers.Precompiled(self._vocabulary.charsmap))
        self._encoder.normalizer = normalizers.Sequence(steps) if steps else None

    @override
    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        cleaned = [canonical(text) for text in texts] if self.cleaning == "canonical" else list(texts)
        return [found.ids for found in self._encoder.encode_batch(cleaned, add_special_tokens=False)]


class MetaClip2Tokenizer(PieceTokenizer):
    """MetaCLIP 2's tokenizer: XLM-V's unigrams, or mT5's."""

    CLEANING: ClassVar[Mapping[str, Cleaning]] = {"Unigram": "none"}


class SiglipTokenizer(PieceTokenizer):
    """SigLIP 2's tokenizer (Gemma's byte pairs, in lower case) or SigLIP's (unigrams of text without punctuation)."""

    CLEANING: ClassVar[Mapping[str, Cleaning]] = {"BPE": "lower", "Unigram": "canonical"}

    def __init__(self, pieces: Pieces, cleaning: Cleaning) -> None:
        super().__init__(pieces, cleaning)
        self.start_id = None
        if pieces.kind == "Unigram":  # its models were trained with texts padded with the end token
            self.pad_id = self.end_id

    @classmethod
    @override
    def load(cls, folder: str | Path, unrecorded: Cleaning = "openai") -> Tokenizer:
        path = Path(folder) / SETTINGS
        if path.is_file() and read_object(path, MAX_BYTES).get("padding_side") == "left":
            raise InputError(
                f"{path} says padding_side: left, but SigLIP was trained on texts that are padded on the right; set it "
                "to right if this model was, too."
            )
        return super().load(folder, unrecorded)


def _read(folder: Path, kinds: tuple[str, ...]) -> Pieces:
    path = folder / TOKENIZER
    if not path.is_file():
        raise UnfitError(f"it has no {TOKENIZER}; docs/training.md says how to make one of a SentencePiece model")
    content = read_small(path, MAX_BYTES)
    if sum(content.count(mark) for mark in (b"[", b"{", b'"', b",")) > MAX_MARKS:
        raise UnfitError(f"its {TOKENIZER} holds more than any vocabulary")
    values = parse_object(content, str(path))
    model = values.get("model")
    if not isinstance(model, dict):
        raise UnfitError(f"its {TOKENIZER} describes no model")
    kind = model.get("type", "BPE")
    if kind not in kinds:
        raise UnfitError(f"its {TOKENIZER} is of the kind {shown(kind)}, not {' or '.join(kinds)}")
    merges: list[tuple[str, str]] = []
    scores: list[float] = []
    if kind == "BPE":
        ids, merges = piece_ids(model.get("vocab")), piece_pairs(model.get("merges"))
        if not merges:
            raise UnfitError(f"its {TOKENIZER} merges nothing")
    else:
        ids, scores = _scored(model.get("vocab"))
    if not {SPACE, UNKNOWN} <= ids.keys() or not any(mark in ids for mark in ENDS):
        raise UnfitError(f"its vocabulary of {len(ids)} pieces has no {SPACE}, {UNKNOWN} or {' or '.join(ENDS)}")
    added = added_tokens(values, folder)
    check_added(ids, added)
    flags = {token: tuple(name for name in PROPERTIES if entry.get(name) is True) for token, _, entry in added}
    return Pieces(ids, merges, scores, _charsmap(values.get("normalizer")), flags)


def _scored(value: Any) -> tuple[dict[str, int], list[float]]:
    """Return ids and scores from a list of (piece, score) pairs."""
    if not isinstance(value, list):
        raise UnfitError("its vocabulary is not a list of pieces")
    for entry in value:
        match entry:
            case [str(), score] if is_number(score, below=1e30):
                pass
            case _:
                raise UnfitError(f"{shown(entry)} is not a piece with its score")
    size = sum(len(piece.encode(errors="replace")) for piece, _ in value)
    if size > MAX_PIECES:
        raise UnfitError(
            f"its pieces have {size / 2**20:.0f} MiB together and would take about {size / 1e7:.1f} GB of memory; the "
            f"limit is {MAX_PIECES // 2**20} MiB"
        )
    ids = {piece: id_ for id_, (piece, _) in enumerate(value)}
    if len(ids) < len(value):
        raise UnfitError("two pieces of its vocabulary are the same")
    return ids, [float(score) for _, score in value]


def _charsmap(normalizer: Any) -> bytes:
    """Return the table of characters in tokenizer.json's normaliser; empty if there is none."""
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict) and "precompiled_charsmap" in step:
            try:
                table = base64.b64decode(step["precompiled_charsmap"], validate=True)
            except (binascii.Error, TypeError, ValueError):
                table = b""
            if not _is_sound(table):
                raise UnfitError("its table of characters is damaged")
            return table
    return b""


def _is_sound(table: bytes) -> bool:
    """True if no text can lead outside a table of characters, where the tokenizers library would crash.

    A table is a length, a double-array trie of that many bytes (units of 32 bits), and the texts that its leaves name
    by their first byte, each ended by a zero.
    """
    size = int.from_bytes(table[:4], "little")
    if not 0 < size <= len(table) - 4 or size % 1024:
        return False
    units = np.frombuffer(table, "<u4", size // 4, offset=4).astype(np.int64)
    texts = np.frombuffer(b"\0" + table[4 + size :], np.uint8)
    try:
        table[4 + size :].decode()
    except UnicodeDecodeError:
        return False
    inner = units < LEAF
    bases = np.arange(len(units)) ^ ((units >> 10) << ((units & 512) >> 6))
    if not inner[0] or (bases[inner] | 255).max() >= len(units):
        return False
    leaves = units[bases[inner & (units & 256 > 0)]] - LEAF
    return bool(((leaves >= 0) & (leaves < len(texts) - 1)).all() and (texts[leaves] == 0).all())


def _encoder(pieces: Pieces) -> Any:
    """Build the same tokenizer as transformers would from these tables, without a normaliser."""
    from tokenizers import AddedToken, models, pre_tokenizers
    from tokenizers import Tokenizer as Raw

    try:
        if pieces.kind == "BPE":
            rules = {"fuse_unk": True, "unk_token": UNKNOWN, "byte_fallback": True}
            encoder = Raw(models.BPE(dict(pieces.ids), pieces.merges, **rules))
            encoder.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        else:
            scored = list(zip(pieces.ids, pieces.scores, strict=True))
            encoder = Raw(models.Unigram(scored, pieces.ids[UNKNOWN], byte_fallback=False))
            words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE)]
            encoder.pre_tokenizer = pre_tokenizers.Sequence(words)
    except Exception as error:  # noqa: BLE001 - many kinds for tables that do not fit each other
        raise UnfitError(f"its tables do not fit each other ({first_line(error):.100})") from None
    encoder.add_tokens(
        [AddedToken(token, **{name: name in held for name in PROPERTIES}) for token, held in pieces.added.items()]
    )
    return encoder
