"""Hold a gallery of videos whose factors are computed once and stay, in memory or in a mapped file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.common.redact import shown
from gare.config.experiment import ModelConfig
from gare.config.heads import HEADS
from gare.scoring.factors import Factors, Rows, ScoreStats, Texts, Videos, slices, without_autocast
from gare.scoring.gallery import factors_of
from gare.scoring.head import PairHead

NO_FACTOR_READS = ("pool_temperature", "corrected", "dropout")
"""The model's settings that the head reads but no stored factor depends on."""


class HasHead(Protocol):
    """A model, of which only the head is used."""

    @property
    def head(self) -> PairHead:
        """Return its pair head."""
        ...


class VideoIndex:
    """Videos encoded once and scored against any text exactly as the model scores them (the method's section 6).

    The factors belong to the head's weights at the time of ``build``: after a change of weights, build again.
    """

    def __init__(self, head: PairHead, factors: Factors[Any], gallery: Rows) -> None:
        self._head, self._factors, self._gallery = head, factors, gallery

    @classmethod
    @without_autocast
    def build(
        cls, model: HasHead, frames: Tensor, frame_mask: Tensor, *, storage: torch.dtype | None = None
    ) -> VideoIndex:
        """Build an index of frame vectors [V, F, D] with mask [V, F], every row with a valid frame.

        ``storage``: type of the large factors. torch.float16 or bfloat16 halve the memory, and scores are then off by
        about that precision; everything is computed in float32 (float64 for float64 frames). The index of a head
        without factors holds the frames, and the head scores them.
        """
        factors = factors_of(model.head)
        return cls(model.head, factors, factors.build(Videos(frames, frame_mask), storage))

    def __len__(self) -> int:
        return len(self._gallery)

    @property
    def frames(self) -> Tensor:
        """Frame vectors [V, F, D] as stored, zero where masked."""
        return self._gallery.tensors()["videos.frames"]

    @property
    def frame_mask(self) -> Tensor:
        """[V, F], True where valid."""
        return self._gallery.tensors()["videos.frame_mask"]

    def score(
        self,
        text: Tensor,
        *,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        stats: ScoreStats | None = None,
    ) -> Tensor:
        """Return cosines [B, V] of text vectors [B, D]; words [B, W, D] and mask [B, W] with model.context words.

        Memory apart from the result does not depend on B. Pairs where cancellation makes float32 untrustworthy are
        scored densely; ``stats`` counts them. Raises ConfigError if words are needed and missing.
        """
        return self._factors.score(self._gallery, Texts(text, words, word_mask), stats or ScoreStats())

    def score_candidates(
        self,
        text: Tensor,
        candidates: Tensor,
        *,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        stats: ScoreStats | None = None,
    ) -> Tensor:
        """Return exact cosines [B, K] of each text with its own candidates [B, K]; reads only their factors."""
        texts, stats = Texts(text, words, word_mask), stats or ScoreStats()
        pairs = zip(slices(len(text), 1), candidates, strict=True)
        rows = [self._factors.score(self._gallery[mine], texts[row], stats) for row, mine in pairs]
        return torch.cat(rows) if rows else text.new_zeros(candidates.shape)

    def save(self, path: Path) -> None:
        """Write all factors as one safetensors file."""
        metadata = {"settings": _settings(self._head.config)}
        tensors = {k: v.contiguous().cpu() for k, v in self._gallery.tensors().items()}
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def load(cls, model: HasHead, path: Path) -> VideoIndex:
        """Map a saved index: a factor is read from the file when it is first needed (CPU).

        ``model`` must have the weights that the index was built with; the file cannot verify that. Raises InputError
        for a file of another kind, ConfigError for a model with other settings, OSError if it cannot be read.
        """
        tensors = {}
        with safe_open(path, framework="pt") as file:
            settings = (file.metadata() or {}).get("settings")
            for name in file.keys():  # noqa: SIM118 - a method of the reader, which is not a mapping
                tensors[name] = file.get_tensor(name)
        if settings is None:
            raise InputError(f"{path} is not a video index.")
        if settings != _settings(model.head.config):
            raise ConfigError(
                f"The video index {path} was built with model settings {shown(settings)}, this model has "
                f"{_settings(model.head.config)}; build it again."
            )
        factors = factors_of(model.head)
        if not _are_built(tensors, factors, model.head):
            raise InputError(f"{path} does not hold the factors of this model's videos; make the index again.")
        return cls(model.head, factors, factors.read(tensors))

    def to(self, device: torch.device | str) -> VideoIndex:
        """Move the index to another device; its model must be there too."""
        return VideoIndex(self._head, factors_of(self._head), self._gallery.to(device))


def _are_built(tensors: dict[str, Tensor], factors: Factors[Any], head: PairHead) -> bool:
    """Check names, types and shapes against the factors that ``build`` makes of as many frames."""
    stored = tensors.get(factors.stored)
    frames = 1 if stored is None or stored.ndim < 3 else stored.shape[1]
    if stored is None or not stored.is_floating_point() or not 0 < frames <= head.config.max_frames:
        return False
    exact = torch.float64 if any(x.dtype == torch.float64 for x in tensors.values()) else torch.float32
    one = Videos(torch.zeros(1, frames, head.dim, dtype=exact), torch.ones(1, frames, dtype=torch.bool))
    try:
        made = factors.build(one, stored.dtype).tensors()
    except RuntimeError:  # of another type than the model
        return False
    found = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in tensors.items() if tensor.ndim}
    expected = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in made.items()}
    return expected.items() <= found.items() and len({len(tensors[name]) for name in made}) == 1


def _settings(config: ModelConfig) -> str:
    """Return the settings that stored factors depend on, in the format of older indexes: gare without ``head``."""
    names = [name for name in HEADS[config.head].reads if name not in NO_FACTOR_READS]
    values: dict[str, Any] = {name: getattr(config, name) for name in names}
    return json.dumps(values if config.head == "gare" else values | {"head": config.head}, sort_keys=True)
