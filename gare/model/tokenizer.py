"""Texts to token ids, as CLIP does it: start, byte-pair tokens, end, then padding with id 0."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gare.common.errors import InputError

PAD_ID = 0
BYTES = 256
START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"


class Tokenizer:
    """A CLIP byte-pair tokenizer with a fixed padding and cutting rule."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.start_id: int = backend.bos_token_id
        self.end_id: int = backend.eos_token_id

    @classmethod
    def load(cls, source: str | Path) -> Tokenizer:
        """The tokenizer of a folder or hub id; InputError when there is none."""
        from transformers import CLIPTokenizer

        try:
            backend = CLIPTokenizer.from_pretrained(str(source))
        except Exception as error:  # whatever a damaged file makes of transformers
            raise InputError(f"{source} holds no CLIP tokenizer: {_first_line(error)}.") from error
        if len(backend) < BYTES:  # transformers makes an empty one where there are no files
            raise InputError(f"{source} holds no CLIP tokenizer: its vocabulary is missing.")
        return cls(backend)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int = 1024) -> Tokenizer:
        """A new tokenizer learned from ``texts``; the same texts give the same one.

        ``vocabulary``: most ids; 514 of them are single bytes and the start and end marks.
        """
        from tokenizers import pre_tokenizers, trainers
        from transformers import CLIPTokenizer

        learner = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[]).backend_tokenizer
        bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
        # Every byte, inside and at the end of a word, so that any text can be spelled. Declared as special only to
        # fix their ids: ids given in the order of a hash map would make ties, and so the merges, differ by run.
        symbols = [*bytes_, *(symbol + WORD_END for symbol in bytes_)]
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary - 2,
            end_of_word_suffix=WORD_END,
            initial_alphabet=bytes_,
            special_tokens=symbols,
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        learned = json.loads(learner.to_str())["model"]
        ordered = sorted(learned["vocab"].keys() - {START, END}, key=learned["vocab"].__getitem__)
        merges = [tuple(pair) for pair in learned["merges"]]
        return cls(CLIPTokenizer(vocab={s: i for i, s in enumerate([*ordered, START, END])}, merges=merges))

    def save(self, folder: Path) -> None:
        """Write it in the format ``load`` and CLIP checkpoints use."""
        self._backend.save_pretrained(str(folder))

    def __eq__(self, other: object) -> bool:
        """Whether both give the same pieces the same ids."""
        return isinstance(other, Tokenizer) and self._backend.get_vocab() == other._backend.get_vocab()

    __hash__ = object.__hash__

    def __len__(self) -> int:
        return len(self._backend)

    def __call__(self, texts: Sequence[str], words: int) -> tuple[Tensor, Tensor]:
        """Token ids [B, W] (int64) and their mask [B, W] (bool); W = ``words`` counts start and end."""
        ids = torch.full((len(texts), words), PAD_ID, dtype=torch.int64)
        mask = torch.zeros((len(texts), words), dtype=torch.bool)
        if not texts:
            return ids, mask
        encoded = self._backend(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        for row, pieces in enumerate(encoded):
            tokens = [self.start_id, *pieces[: words - 2], self.end_id]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        return ids, mask


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
