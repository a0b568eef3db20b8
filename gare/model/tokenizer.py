"""Turn texts into token ids like CLIP: clean them, then start, byte-pair tokens, end, and padding with id 0."""

from __future__ import annotations

import html
import json
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gare.common.errors import InputError
from gare.common.files import digest_of, write_json, write_text
from gare.common.records import read_object
from gare.common.redact import shown
from gare.common.text import LONGEST_TEXT
from gare.model.vocabulary import END, MAX_BYTES, SETTINGS, START, TOKENIZER, WORD_END, Vocabulary, read_vocabulary

Cleaning = Literal["openai", "canonical", "lower", "none"]
"""Ways of cleaning texts.

``openai``, ``canonical``: as OpenAI's CLIP and SigLIP do. ``lower``: lower case alone, as SigLIP 2 does. ``none``:
nothing, as MetaCLIP 2 does; also for all tokenizers saved before cleaning was recorded.
"""
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean(text: str) -> str:
    """Clean a text like OpenAI's CLIP: repair broken Unicode, resolve HTML entities twice, spaces, lower case."""
    # ftfy leaves printable ASCII, which most captions are, unchanged, but takes a hundred times as long to find out.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def canonical(text: str) -> str:
    """Clean a text like SigLIP: lower case, no ASCII punctuation, one space between words."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


PAD_ID = 0
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""The pattern by which CLIP cuts a text before it looks for pieces."""
SAVED_SETTINGS = {
    "backend": "tokenizers", "bos_token": START, "eos_token": END, "model_max_length": int(1e30), "pad_token": END,
    "tokenizer_class": "CLIPTokenizer", "unk_token": END,
}  # fmt: skip
"""What transformers reads next to a CLIP's tokenizer.json."""
RECORD = "text_cleaning"
"""Key of the tokenizer's settings that says how texts are cleaned."""


class Tokenizer:
    """A CLIP byte-pair tokenizer with a fixed padding and cutting rule. ``cleaning``: see ``Cleaning``."""

    def __init__(self, vocabulary: Vocabulary, cleaning: Cleaning = "openai") -> None:
        self._vocabulary = vocabulary
        self._encoder = _encoder(vocabulary)
        self._normalizer = self._encoder.normalizer
        self.start_id: int | None = vocabulary.ids[START]
        self.end_id, self.pad_id = vocabulary.ids[END], PAD_ID
        self.cleaning = cleaning

    @classmethod
    def load(cls, folder: str | Path, unrecorded: Cleaning = "openai") -> Tokenizer:
        """Load the tokenizer of a folder; InputError if it is missing or belongs to another kind of model.

        ``unrecorded``: how texts are cleaned if the folder does not say.
        """
        folder = Path(folder)
        return cls(read_vocabulary(folder), recorded_cleaning(folder, unrecorded, ("openai", "none")))

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int = 1024) -> Tokenizer:
        """Learn a new tokenizer from ``texts``; the same texts give the same one.

        ``vocabulary``: most ids; 514 of them are single bytes and the start and end marks.
        """
        from tokenizers import pre_tokenizers, trainers

        learner = _encoder(Vocabulary({START: 0, END: 1}, []))
        bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
        # Every byte, inside and at the end of a word, so that any text can be spelled. They are declared special only
        # to fix their ids: in the order of a hash map, ties, and so the merges, would differ between runs.
        symbols = [*bytes_, *(symbol + WORD_END for symbol in bytes_)]
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary - 2,
            end_of_word_suffix=WORD_END,
            initial_alphabet=bytes_,
            special_tokens=symbols,
            show_progress=False,
        )
        learner.train_from_iterator(map(clean, texts), trainer)
        learned = json.loads(learner.to_str())["model"]
        ordered = sorted(learned["vocab"].keys() - {START, END}, key=learned["vocab"].__getitem__)
        merges = [(first, second) for first, second in learned["merges"]]
        return cls(Vocabulary({s: i for i, s in enumerate([*ordered, START, END])}, merges))

    def save(self, folder: Path) -> None:
        """Write it in the format that ``load`` and CLIP checkpoints use."""
        write_text(folder / TOKENIZER, _encoder(self._vocabulary).to_str(pretty=True))
        write_json(folder / SETTINGS, SAVED_SETTINGS | {RECORD: self.cleaning})

    def __eq__(self, other: object) -> bool:
        """Compare the pieces and their ids."""
        return isinstance(other, Tokenizer) and self._vocabulary == other._vocabulary

    __hash__ = object.__hash__

    def fingerprint(self) -> str:
        """Return a digest of its pieces, their ids and the cleaning of texts."""
        return digest_of([type(self).__name__, repr(self._vocabulary), self.cleaning])

    def __len__(self) -> int:
        return len(self._vocabulary.ids)

    @property
    def largest_id(self) -> int:
        """Return the largest id it gives; an embedding table needs at least one more row."""
        return max(self._vocabulary.ids.values())

    @property
    def cleaning(self) -> Cleaning:
        """The way of cleaning texts, which is saved with the tokenizer."""
        return self._cleaning

    @cleaning.setter
    def cleaning(self, cleaning: Cleaning) -> None:
        self._cleaning: Cleaning = cleaning
        self._clean_by(cleaning)

    def _clean_by(self, cleaning: Cleaning) -> None:
        """Set up the encoder's share of the cleaning."""
        # Uncleaned texts still pass through transformers' own rule (spaces, lower case, composed characters).
        self._encoder.normalizer = self._normalizer if cleaning == "none" else None

    def __call__(self, texts: Sequence[str], words: int) -> tuple[Tensor, Tensor]:
        """Return token ids [B, W] (int64) and their mask [B, W] (bool); W = ``words`` counts end and, if any, start.

        At most LONGEST_TEXT characters of a text are read: 10 MB would take a minute and 2 GB.
        """
        ids = torch.full((len(texts), words), self.pad_id, dtype=torch.int64)
        mask = torch.zeros((len(texts), words), dtype=torch.bool)
        if not texts:
            return ids, mask
        start = [] if self.start_id is None else [self.start_id]
        for row, pieces in enumerate(self._pieces([text[:LONGEST_TEXT] for text in texts])):
            tokens = [*start, *pieces[: words - len(start) - 1], self.end_id]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        return ids, mask

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        if self.cleaning == "none":
            return [found.ids for found in self._encoder.encode_batch(list(texts), add_special_tokens=False)]
        cleaned = [clean(text) for text in texts]
        encoded = self._encoder.encode_batch(cleaned, add_special_tokens=False)
        return [
            self._one_by_one(text) if START in text or END in text else found.ids
            for text, found in zip(cleaned, encoded, strict=True)
        ]

    def _one_by_one(self, text: str) -> list[int]:
        """Encode a text that spells a start or end token: a token where CLIP's pattern cuts it, else characters."""
        marks = {mark: [self._vocabulary.ids[mark]] for mark in (START, END)}
        ids: list[int] = []
        for word, _ in self._encoder.pre_tokenizer[0].pre_tokenize_str(text):
            ids += marks.get(word) or self._encoder.encode(word, add_special_tokens=False).ids
        return ids


def recorded_cleaning(folder: Path, unrecorded: Cleaning, known: tuple[Cleaning, ...]) -> Cleaning:
    """Return how a folder's tokenizer cleans texts; ``unrecorded`` if it does not say.

    Raises InputError for a way that is not ``known`` for its kind.
    """
    path = folder / SETTINGS
    cleaning: Any = (read_object(path, MAX_BYTES) if path.is_file() else {}).get(RECORD, unrecorded)
    if cleaning not in known:
        raise InputError(f"{path} says {RECORD}: {shown(cleaning)}, which is not known of tokenizers of its kind.")
    return cleaning  # type: ignore[no-any-return]


def _encoder(vocabulary: Vocabulary) -> Any:
    """Build the tokenizer that transformers' CLIPTokenizer builds of these pieces and merges, without importing it."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Raw

    rules = {"continuing_subword_prefix": "", "end_of_word_suffix": WORD_END, "fuse_unk": False, "unk_token": END}
    encoder = Raw(models.BPE(dict(vocabulary.ids), list(vocabulary.merges), **rules))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    encoder.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    encoder.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    encoder.decoder = decoders.ByteLevel()
    encoder.add_tokens([AddedToken(mark, normalized=False, special=True) for mark in (START, END)])
    end, start = ((mark, vocabulary.ids[mark]) for mark in (END, START))
    encoder.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return encoder
