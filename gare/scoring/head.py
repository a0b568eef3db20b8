"""Define a pair head: vectors of texts and videos become scores, and what the objective and a gallery need.

A head is one file here and one row of ``gare.config.heads.HEADS``. Shapes: B texts, V videos, F frames, W words, D
width; masks are bool, True where valid, and every row has a valid position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from gare.common.errors import ConfigError
from gare.config.experiment import ModelConfig
from gare.config.heads import HEADS
from gare.objective.increments import BlockIncrements, Increments, cuts
from gare.scoring.factors import Factors


@dataclass(frozen=True)
class PairScores:
    """Cosines [B, V], the increments behind them (None for a head without) and, in the dense form, the scored videos.

    ``pooled`` [B, V, D] is None for forms that never compute it.
    """

    scores: Tensor
    increments: Increments | None = None
    pooled: Tensor | None = None

    @property
    def delta(self) -> Tensor | None:
        """Return the increments as one tensor [B, V, D]."""
        return None if self.increments is None else self.increments.rows(0, self.increments.texts)


@dataclass(frozen=True)
class PairDropout:
    """A head's dropout, drawn from (seed, step, global text index), so that the number of ranks does not matter."""

    rate: float
    seed: int
    step: int
    first_text: int = 0

    def mask(self, like: Tensor) -> Tensor | None:
        """Draw factors of the shape [B, V, D] of ``like``, 0 or 1 / (1 - rate); None if nothing is dropped."""
        if self.rate == 0:
            return None
        texts, videos, dim = like.shape
        generator = torch.Generator(device=like.device)
        rows = []
        for text in range(self.first_text, self.first_text + texts):
            generator.manual_seed(_mix(self.seed, self.step, text))
            rows.append(torch.rand(videos, dim, generator=generator, device=like.device) >= self.rate)
        return torch.stack(rows).to(like.dtype) / (1 - self.rate)


class PairHead(nn.Module, ABC):
    """A module that scores every text against every video, always in float32 (float64 for float64)."""

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.dim, self.config = dim, config

    @override
    def forward(
        self,
        text_BD: Tensor,
        frames_VFD: Tensor,
        frame_mask_VF: Tensor,
        words_BWD: Tensor | None = None,
        word_mask_BW: Tensor | None = None,
        dropout: PairDropout | None = None,
    ) -> PairScores:
        """Score texts [B, D] against videos [V, F, D]; words [B, W, D] are for heads that read them.

        Raises ConfigError if words are needed and missing.
        """
        words = None if words_BWD is None else as_float(words_BWD)
        with torch.autocast(device_type=text_BD.device.type, enabled=False):
            return self.score(as_float(text_BD), as_float(frames_VFD), frame_mask_VF, words, word_mask_BW, dropout)

    @abstractmethod
    def score(
        self,
        text: Tensor,
        frames_VFD: Tensor,
        frame_mask_VF: Tensor,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        dropout: PairDropout | None = None,
    ) -> PairScores:
        """Compute the equations in the precision of the arguments, with gradients."""

    def factors(self) -> Factors[Any] | None:
        """Return what is computed once per video to make pairs cheap, without gradients; None if there is nothing.

        It is valid for the head's present weights only.
        """
        return None

    def factorised(self, *_pairs: Any, **_named: Any) -> PairScores:
        """Score like ``forward``, with gradients, without a vector per pair (``train.increments: factorised``).

        Raises ConfigError for a head whose increments do not factorise.
        """
        raise ConfigError(f"model.head {self.config.head} has no factorised increments; set train.increments to dense.")


def make_head(dim: int, config: ModelConfig) -> PairHead:
    """Make the configured head for vectors of width ``dim``; torch's seed determines its parameters."""
    module, _, name = HEADS[config.head].source.partition(":")
    head: PairHead = getattr(import_module(module), name)(dim, config)
    return head


def masked_mean(frames_VFD: Tensor, mask_VF: Tensor) -> Tensor:
    """Return the mean over valid frames, [V, D]."""
    weights = mask_VF.to(frames_VFD.dtype)
    return (frames_VFD * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


def as_float(x: Tensor) -> Tensor:
    """Return float64 unchanged and everything else as float32."""
    return x if x.dtype == torch.float64 else x.float()


def _mix(*values: int) -> int:
    """Mix several integers into one 63-bit seed (splitmix64 steps)."""
    state = 0
    for value in values:
        state = (state ^ value) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


BLOCK_NUMBERS = 2**26
"""Most numbers of one block of increments: 256 MB in float32. Smaller blocks would project the context too often."""


def blocked_scores(
    head: PairHead,
    text_BD: Tensor,
    frames_VFD: Tensor,
    frame_mask_VF: Tensor,
    words_BWD: Tensor | None = None,
    word_mask_BW: Tensor | None = None,
    dropout: PairDropout | None = None,
) -> PairScores:
    """Score every text and video with ``head`` in blocks, with gradients; the result is equal up to rounding."""

    def of_texts(start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        own = slice(start, stop)
        words = (None, None) if words_BWD is None or word_mask_BW is None else (words_BWD[own], word_mask_BW[own])
        drawn = None if dropout is None else replace(dropout, first_text=dropout.first_text + start)
        made = head(text_BD[own], frames_VFD, frame_mask_VF, *words, drawn)
        return made.scores, made.delta

    bounds = cuts(len(text_BD), len(frames_VFD), text_BD.shape[-1], BLOCK_NUMBERS)
    if len(bounds) == 1:
        parts = [of_texts(*bounds[0])]
    else:
        # Dropout has its own generator, so torch's state need not be kept.
        parts = [checkpoint(of_texts, *cut, use_reentrant=False, preserve_rng_state=False) for cut in bounds]
    scores, increments = torch.cat([part[0] for part in parts]), [delta for _, delta in parts if delta is not None]
    return PairScores(scores, BlockIncrements(increments) if increments else None)
