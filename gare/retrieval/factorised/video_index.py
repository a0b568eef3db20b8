"""A gallery of videos whose factors are computed once and stay, in memory or in a mapped file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.common.redact import first_line, shown
from gare.config.model import ModelConfig
from gare.model.gare import GareModel
from gare.model.head import PairHead
from gare.retrieval.factorised.factors import ContextFactors, PsiMaps, VideoFactors
from gare.retrieval.factorised.first_stage import first_stage_scores, uniform_increment
from gare.retrieval.factorised.grid import (
    BUILD_BLOCK,
    Gallery,
    ScoreStats,
    Words,
    compute_dtype,
    factorises,
    psi_maps,
    score_grid,
    slices,
    without_autocast,
)

FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
MOST_FRAMES = 4096
SHAPING = ("increment", "context", "query", "gap_sign", "video_base")
"""The model's settings that the stored factors depend on."""


class VideoIndex:
    """Videos encoded once, scored against any text exactly as the model scores them (the method's section 6).

    The factors belong to psi's weights at the time of ``build``: after a change of weights, build again.
    """

    def __init__(self, head: PairHead, gallery: Gallery, uniform_VD: Tensor | None) -> None:
        self._head = head
        self._gallery = gallery
        self._uniform = uniform_VD
        self._maps: PsiMaps | None = None

    @classmethod
    @without_autocast
    def build(
        cls, model: GareModel, frames: Tensor, frame_mask: Tensor, *, storage: torch.dtype | None = None
    ) -> VideoIndex:
        """An index of frame vectors [V, F, D] with mask [V, F], every row with a valid frame.

        ``storage``: type of the large factors, torch.float16 or bfloat16 for half the memory at scores off by about
        its precision; everything is computed in float32 (float64 for float64 frames). A model with a residual
        query has no factors: its index holds the frames, and the head scores them.
        """
        head: PairHead = model.head
        frames = frames.to(compute_dtype(frames))
        maps = psi_maps(head, frames.dtype)
        gallery = Gallery.of(head, maps, frames, frame_mask, storage)
        index = cls(head, gallery, _uniform_of_videos(head, frames, frame_mask))
        index._maps = maps
        return index

    def __len__(self) -> int:
        return len(self._gallery.videos.mean)

    @property
    def frames(self) -> Tensor:
        """Frame vectors [V, F, D] as stored, zero where masked."""
        return self._gallery.videos.frames

    @property
    def frame_mask(self) -> Tensor:
        """[V, F], True where valid."""
        return self._gallery.videos.frame_mask

    def score(
        self,
        text: Tensor,
        *,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        stats: ScoreStats | None = None,
    ) -> Tensor:
        """Cosines [B, V] of text vectors [B, D]; words [B, W, D] and mask [B, W] with model.context words.

        Memory beside the result does not depend on B. Pairs where cancellation makes float32 untrustworthy are
        scored densely; ``stats`` counts them. Raises ConfigError when words are needed and missing.
        """
        return score_grid(self._head, self._psi_maps(), self._gallery, text, words, word_mask, stats=stats)

    @without_autocast
    def first_stage(
        self, text: Tensor, keep: int, *, words: Tensor | None = None, word_mask: Tensor | None = None
    ) -> Tensor:
        """The ``keep`` most promising videos of each text, [B, min(keep, V)], best first; ties in index order.

        Approximate: the ranking is by the increment at uniform attention and the plain mean of the frames, so a
        video that the exact score would put on top can be missing. Raises ConfigError for a residual query,
        which has no first stage, and when words are needed and missing.
        """
        if not factorises(self._head.config):
            raise ConfigError(f"model.query {self._head.config.query} has no first stage; score all videos.")
        mean = self._gallery.videos.mean
        text, config = text.to(mean.dtype), self._head.config
        needed = Words.needed(config, words, word_mask, text.dtype)
        if self._head.psi is None:
            delta, of_videos = torch.zeros_like(text), None
        elif needed.vectors is not None and needed.mask is not None:
            delta, of_videos = uniform_increment(self._head.psi, needed.vectors, needed.mask), None
        else:
            assert self._uniform is not None  # noqa: S101
            delta, of_videos = self._uniform, (self._uniform * mean).sum(-1)
        scores = first_stage_scores(text, mean, delta, of_videos, config)
        return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :keep]

    def score_candidates(
        self,
        text: Tensor,
        candidates: Tensor,
        *,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        stats: ScoreStats | None = None,
    ) -> Tensor:
        """Exact cosines [B, K] of each text with its own candidates [B, K]; reads only their factors."""
        rows = []
        for row, mine in zip(slices(len(text), 1), candidates, strict=True):
            own_words = None if words is None else words[row]
            own_mask = None if word_mask is None else word_mask[row]
            part = self._gallery.take(mine)
            rows.append(score_grid(self._head, self._psi_maps(), part, text[row], own_words, own_mask, stats=stats))
        return torch.cat(rows) if rows else text.new_zeros(candidates.shape)

    def save(self, path: Path) -> None:
        """Write all factors as one safetensors file."""
        metadata = {"settings": _settings(self._head.config)}
        save_file({k: v.contiguous().cpu() for k, v in self.tensors().items()}, path, metadata=metadata)

    def tensors(self) -> dict[str, Tensor]:
        """All factors by the names of the file."""
        tensors = {f"videos.{k}": v for k, v in self._gallery.videos.tensors().items()}
        if self._gallery.contexts is not None and self._gallery.cross is not None:
            tensors |= {f"contexts.{k}": v for k, v in self._gallery.contexts.tensors().items()}
            tensors["cross"] = self._gallery.cross
        if self._uniform is not None:
            tensors["uniform"] = self._uniform
        return tensors

    @classmethod
    def load(cls, model: GareModel, path: Path) -> VideoIndex:
        """Map a saved index: a factor is read from the file when it is first needed (CPU).

        ``model`` must have the weights the index was built with: the file does not know them. Raises InputError
        for a file of another kind, ConfigError for a model with other settings, OSError when it cannot be read.
        """
        tensors = {}
        with safe_open(path, framework="pt") as file:
            settings = (file.metadata() or {}).get("settings")
            for name in file.keys():  # noqa: SIM118 - a method of the reader, which is no mapping
                tensors[name] = file.get_tensor(name)
        if settings is None:
            raise InputError(f"{path} is not a video index.")
        if settings != _settings(model.head.config):
            raise ConfigError(
                f"The video index {path} was built with model settings {shown(settings)}, this model has "
                f"{_settings(model.head.config)}; build it again."
            )
        _check_factors(model, tensors, path)
        videos = VideoFactors(**_under(tensors, "videos."))
        contexts = _under(tensors, "contexts.")
        gallery = Gallery(videos, ContextFactors(**contexts) if contexts else None, tensors.get("cross"))
        return cls(model.head, gallery, tensors.get("uniform"))

    def to(self, device: torch.device | str) -> VideoIndex:
        """The same index on another device; its model must be there too."""
        uniform = None if self._uniform is None else self._uniform.to(device)
        return VideoIndex(self._head, self._gallery.to(device), uniform)

    def _psi_maps(self) -> PsiMaps | None:
        if self._maps is None:
            self._maps = psi_maps(self._head, self._gallery.videos.mean.dtype)
        return self._maps


@torch.no_grad()
def _check_factors(model: GareModel, tensors: dict[str, Tensor], path: Path) -> None:
    """InputError unless these are the factors that ``build`` makes of as many frames: names, types and shapes."""
    frames, mean = tensors.get("videos.frames"), tensors.get("videos.mean")
    fits = frames is not None and mean is not None and frames.ndim == 3 and frames.shape[1] <= MOST_FRAMES
    fits = fits and mean.ndim == 2 and mean.shape[1] == frames.shape[2]  # type: ignore[union-attr]
    if fits and {frames.dtype, mean.dtype} <= FLOATS:  # type: ignore[union-attr]
        assert frames is not None  # noqa: S101
        assert mean is not None  # noqa: S101
        one = torch.zeros(1, *frames.shape[1:], dtype=mean.dtype)
        try:
            made = VideoIndex.build(model, one, torch.ones(one.shape[:2], dtype=torch.bool), storage=frames.dtype)
        except RuntimeError as error:  # of another width or type than the model
            raise InputError(f"{path} does not fit the model: {first_line(error)}; make the index again.") from None
        expected = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in made.tensors().items()}
        found = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in tensors.items()}
        if found == expected and len({len(tensor) for tensor in tensors.values()}) == 1:
            return
    raise InputError(f"{path} does not hold the factors of this model's videos; make the index again.")


def _uniform_of_videos(head: PairHead, frames_VFD: Tensor, mask_VF: Tensor) -> Tensor | None:
    """D0 of every video [V, D]; None where it depends on the text or there is no increment."""
    if head.psi is None or head.config.context == "words" or not factorises(head.config):
        return None
    blocks = slices(len(frames_VFD), BUILD_BLOCK)
    return torch.cat([uniform_increment(head.psi, frames_VFD[rows], mask_VF[rows]) for rows in blocks])


def _settings(config: ModelConfig) -> str:
    return json.dumps({name: getattr(config, name) for name in SHAPING}, sort_keys=True)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
