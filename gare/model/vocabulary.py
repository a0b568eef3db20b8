"""Read and check the vocabulary of a CLIP tokenizer; nothing else in its files is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare.common.errors import InputError
from gare.common.records import read_object, read_small
from gare.common.redact import shown

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
MAX_BYTES = 16 * 2**20
TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SETTINGS, ADDED = "tokenizer_config.json", "added_tokens.json"
SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
FILES = (TOKENIZER, VOCABULARY, MERGES, SETTINGS, ADDED, *SENTENCEPIECE)


def has_tokenizer(folder: Path) -> bool:
    """True if a folder holds the tokenizer of any model."""
    return any((folder / name).is_file() for name in (TOKENIZER, VOCABULARY, *SENTENCEPIECE))


@dataclass(frozen=True)
class Vocabulary:
    """Ids of pieces, and the pairs of pieces to merge, first to last."""

    ids: Mapping[str, int]
    merges: list[tuple[str, str]]


Added = tuple[str, Any, Mapping[str, Any]]
"""A token that files add to a vocabulary: its text, id and properties."""


class UnfitError(Exception):
    """The reason that files are not those of a tokenizer."""


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary in ``tokenizer.json``, else in ``vocab.json`` and ``merges.txt``.

    Raises InputError unless it is CLIP's kind: byte-pair pieces that end words with ``</w>``, can spell any text, are
    all reached by merges, and have start and end tokens.
    """
    one = folder / TOKENIZER
    try:
        values = read_object(one, MAX_BYTES) if one.is_file() else None
        found = _of_one_file(values) if values is not None else _of_two_files(folder)
        _check(found)
        check_added(found.ids, added_tokens(values or {}, folder))
    except UnfitError as unfit:
        raise InputError(f"{folder} holds no CLIP tokenizer: {unfit}.") from None
    return found


def _of_one_file(values: Mapping[str, Any]) -> Vocabulary:
    model = values.get("model")
    if not isinstance(model, dict):
        raise UnfitError(f"its {TOKENIZER} describes no model")
    kind = model.get("type", "BPE")
    if kind != "BPE" or "merges" not in model:
        raise UnfitError(f"its {TOKENIZER} is of the kind {shown(kind)}, not byte pairs")
    suffix = model.get("end_of_word_suffix", WORD_END)
    if suffix != WORD_END:
        raise UnfitError(f"its pieces end words with {shown(suffix)}, not {WORD_END}")
    return Vocabulary(piece_ids(model.get("vocab")), piece_pairs(model["merges"]))


def _of_two_files(folder: Path) -> Vocabulary:
    for name in (VOCABULARY, MERGES):
        if not (folder / name).is_file():
            raise UnfitError(f"it has no {TOKENIZER}, and no {name}")
    try:
        lines = read_small(folder / MERGES, MAX_BYTES).decode().splitlines()
    except UnicodeDecodeError:
        raise UnfitError(f"its {MERGES} is not UTF-8") from None
    pairs = [line for n, line in enumerate(lines) if line and not (n == 0 and line.startswith("#version"))]
    return Vocabulary(piece_ids(read_object(folder / VOCABULARY, MAX_BYTES)), piece_pairs(pairs))


def piece_ids(value: Any) -> dict[str, int]:
    """Return the ids of pieces, checked; UnfitError for anything else."""
    if not isinstance(value, dict) or any(type(id_) is not int or not 0 <= id_ < 2**31 for id_ in value.values()):
        raise UnfitError("its vocabulary does not map pieces to ids")
    if len(set(value.values())) < len(value):
        raise UnfitError("two pieces of its vocabulary have the same id")
    return value


def piece_pairs(value: Any) -> list[tuple[str, str]]:
    """Return pairs of pieces, each written as two words or as a list of two; empty if there is no list."""
    return [_pair(pair) for pair in value] if isinstance(value, list) else []


def _pair(value: Any) -> tuple[str, str]:
    parts = value.split(" ") if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise UnfitError(f"{shown(value)} is not a pair of pieces to merge")
    return parts[0], parts[1]


def _check(found: Vocabulary) -> None:
    from tokenizers import pre_tokenizers

    ids = found.ids
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    known = {START, END, *bytes_, *(symbol + WORD_END for symbol in bytes_)}
    missing = sorted(known - ids.keys())
    if missing:
        raise UnfitError(
            f"its vocabulary of {len(ids)} pieces does not have {len(missing)} that CLIP's have, such as "
            f"{shown(missing[0])}, so it belongs to another kind of model"
        )
    for pair in found.merges:
        if not {*pair, "".join(pair)} <= ids.keys():
            raise UnfitError(f"it merges {shown(pair[0])} and {shown(pair[1])}, which its vocabulary does not have")
    lost = ids.keys() - known - {"".join(pair) for pair in found.merges}
    if lost:
        raise UnfitError(f"no merge makes {len(lost)} of its pieces, such as {min(lost)!r:.40}")


def check_added(ids: Mapping[str, int], added: Iterable[Added]) -> None:
    """Raise UnfitError if the files add a token that is not already in the vocabulary."""
    for token, id_, _ in added:
        if ids.get(token) != id_:
            raise UnfitError(
                f"it adds the token {shown(token)} with the id {shown(id_)}, which its vocabulary does not have"
            )


def added_tokens(values: Mapping[str, Any], folder: Path) -> list[Added]:
    """List the tokens that a folder's files add, with ids and properties; ``values``: its ``tokenizer.json``."""
    settings, others = (
        read_object(folder / name, MAX_BYTES) if (folder / name).is_file() else {} for name in (SETTINGS, ADDED)
    )
    listed, decoder = values.get("added_tokens") or [], settings.get("added_tokens_decoder") or {}
    if not isinstance(listed, list) or not isinstance(decoder, dict):
        raise UnfitError("its added tokens are not written as transformers writes them")
    entries = [(entry, entry.get("id") if isinstance(entry, dict) else None) for entry in listed]
    entries += [(entry, int(id_) if id_.isdecimal() and len(id_) < 20 else id_) for id_, entry in decoder.items()]
    found = [
        (str(entry.get("content")), id_, entry) if isinstance(entry, dict) else (str(entry), id_, {})
        for entry, id_ in entries
    ]
    return [*found, *((token, id_, {}) for token, id_ in others.items())]
