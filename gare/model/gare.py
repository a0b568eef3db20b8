"""The assembled model: CLIP towers, temporal transformer and pair head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gare.common.errors import InputError
from gare.common.redact import first_line
from gare.config.experiment import ModelConfig
from gare.config.heads import HEADS
from gare.model.architecture import Architecture
from gare.model.clip_source import load_clip
from gare.model.pixels import OPENAI_PIXELS, Pixels
from gare.model.temporal import PlainFrames, TemporalTransformer
from gare.model.tokenizer import PAD_ID, Tokenizer
from gare.model.towers import family_of, new_model
from gare.scoring.head import PairDropout, PairScores, make_head


class GareModel(nn.Module):
    """Towers and a pair head (``model.head``); the paper's head gives every pair a learned increment.

    Shapes: B texts, V videos, F frames, W words, D embedding width. Masks are bool, True where valid.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, clip: Any, config: ModelConfig, tokenizer: Tokenizer | None = None, pixels: Pixels = OPENAI_PIXELS
    ) -> None:
        super().__init__()
        self.config = config
        self.clip = clip
        self.tokenizer = tokenizer
        self.family = family_of(clip.config)
        for name in self.family.idle:
            getattr(clip, name).requires_grad_(requires_grad=False)
        self.dim = dim = self.family.width(clip.config)
        plain = config.temporal_layers == 0 and HEADS[config.head].plain_frames
        self.temporal = PlainFrames() if plain else TemporalTransformer(dim, config.temporal_layers, config.max_frames)
        self.temporal_from_text = self.temporal.start_from_text_tower(clip.text_model)
        self.head = make_head(dim, config)
        self.end_id = tokenizer.end_id if tokenizer is not None else self._largest_end_id()
        self.pad_id = tokenizer.pad_id if tokenizer is not None else PAD_ID
        self._take_pixels(pixels)

    def _take_pixels(self, pixels: Pixels) -> None:
        self.pixels = pixels
        for name, values in (("pixel_mean", pixels.mean), ("pixel_std", pixels.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def with_weights(
        cls,
        architecture: Architecture,
        weights: Mapping[str, Tensor],
        config: ModelConfig,
        tokenizer: Tokenizer | None = None,
        pixels: Pixels = OPENAI_PIXELS,
    ) -> GareModel:
        """Make the model of a CLIP's architecture with these weights, which become its own; nothing is drawn first."""
        with torch.device("meta"):
            model = cls(new_model(architecture), config, tokenizer, pixels)
        model.load_state_dict(weights, assign=True)
        model._take_pixels(pixels)
        return model.eval()

    @classmethod
    def from_clip(cls, source: str | Path, config: ModelConfig) -> GareModel:
        """Start from the CLIP model (and its tokenizer) in a folder or on the hub; psi is drawn from torch's seed.

        Raises InputError if there is no such model, or if config, weights, tokenizer and preprocessing do not fit each
        other.
        """
        clip, found = load_clip(str(source))
        return cls(clip, config, found.tokenizer, found.pixels)

    def read_inputs_as(self, other: GareModel) -> None:
        """Clean texts and normalise pixels in the same way as another model of the same CLIP."""
        if self.tokenizer is not None and other.tokenizer is not None:
            self.tokenizer.cleaning = other.tokenizer.cleaning
        self.pixels = other.pixels
        self.pixel_mean.copy_(other.pixel_mean)
        self.pixel_std.copy_(other.pixel_std)

    @property
    def image_size(self) -> int:
        """Side of the image tower's square frames, in pixels."""
        return int(self.clip.config.vision_config.image_size)

    @property
    def logit_scale(self) -> Tensor:
        """Exp of the learned logit scale, a scalar."""
        return self.clip.logit_scale.exp().reshape(())  # type: ignore[no-any-return]

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the learned scale at most ``model.max_logit_scale``; call after every optimiser step."""
        self.clip.logit_scale.data.clamp_(max=math.log(self.config.max_logit_scale))

    def encode_texts(self, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return text vectors [B, D] and word vectors [B, W, D] of token ids and mask [B, W], in one pass."""
        return self.family.texts(self.clip, token_ids, token_mask, self.end_id, self.pad_id)

    def _largest_end_id(self) -> int:
        """Return the end token's id without a tokenizer: the config's, or the last id if an older config means that."""
        config = self.clip.config
        return max(self.family.end_ids(config, config.text_config.vocab_size - 1))

    def encode_text(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Return text vectors [B, D] in the embedding space."""
        return self.encode_texts(token_ids, token_mask)[0]

    def encode_words(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Return word vectors [B, W, D], start and end included; rows outside the mask are meaningless."""
        return self.encode_texts(token_ids, token_mask)[1]

    def normalise(self, frames: Tensor) -> Tensor:
        """Convert uint8 frames [..., 3, H, W] to CLIP's normalised float pixels."""
        return frames.to(self.pixel_mean.dtype, copy=True).div_(255).sub_(self.pixel_mean).div_(self.pixel_std)

    def encode_clips(self, clips: Tensor, frame_mask: Tensor, valid: int | None = None) -> Tensor:
        """Return frame vectors [V, F, D] after the temporal transformer, from uint8 clips [V, F, 3, H, W].

        Only valid frames are normalised and pass through the image tower; padded rows are zeros. Clips may also be what
        ``embed_images`` made of them, [V, F, D]. ``valid``: how many frames are valid; a GPU has to be asked for that
        if it is None, and is waited for.
        """
        return self.temporal(self.embed_clips(clips, frame_mask, valid), frame_mask)  # type: ignore[no-any-return]

    def embed_clips(self, clips: Tensor, frame_mask: Tensor, valid: int | None = None) -> Tensor:
        """Return frame vectors [V, F, D] like ``encode_clips``, but from before the temporal transformer."""
        places = _places(frame_mask, valid)
        frames = clips.flatten(0, 1)[places]
        embedded = frames if clips.dim() == 3 else self.embed_images(self.normalise(frames))
        return self._in_places(embedded, frame_mask, places)

    def encode_frames(self, pixels: Tensor, frame_mask: Tensor) -> Tensor:
        """Encode normalised pixels [V, F, 3, H, W] like ``encode_clips``."""
        places = _places(frame_mask)
        embedded = self._in_places(self.embed_images(pixels.flatten(0, 1)[places]), frame_mask, places)
        return self.temporal(embedded, frame_mask)  # type: ignore[no-any-return]

    def _in_places(self, embedded: Tensor, frame_mask: Tensor, places: Tensor) -> Tensor:
        """Put valid frames' embeddings [N, D] in their places [V, F, D]; padded rows are zeros."""
        frames = embedded.new_zeros(frame_mask.numel(), self.dim)
        frames[places] = embedded
        return frames.view(*frame_mask.shape, self.dim)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Return CLIP image embeddings [N, D] of normalised pixels [N, 3, H, W]."""
        return self.family.images(self.clip, pixels)

    def score(
        self,
        text: Tensor,
        frames: Tensor,
        frame_mask: Tensor,
        *,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        dropout: PairDropout | None = None,
        return_delta: bool = False,
        return_pooled: bool = False,
    ) -> PairScores:
        """Return cosines of texts [B, D] with videos [V, F, D] after the increment; context words needs ``words``."""
        full: PairScores = self.head(text, frames, frame_mask, words, word_mask, dropout)
        return PairScores(
            full.scores, full.increments if return_delta else None, full.pooled if return_pooled else None
        )


def _places(frame_mask: Tensor, valid: int | None = None) -> Tensor:
    """Return the numbers [N] of the valid frames in a mask [V, F], counted over all clips."""
    flat = frame_mask.flatten()
    if valid is None:
        return flat.nonzero()[:, 0]
    return flat.logical_not().to(torch.uint8).argsort(stable=True)[:valid]


def outline(architecture: Architecture, config: ModelConfig, device: str = "meta") -> GareModel:
    """Return the model of a CLIP's config without values; for devices other than meta, call it in a FakeTensorMode.

    Raises InputError if the sizes do not fit each other.
    """
    try:
        clip = new_model(architecture)
        with torch.device(device):
            _move(clip)
            return GareModel(clip, config)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"No CLIP model can be made of its config: {first_line(error)}.") from error


def _move(clip: nn.Module) -> None:
    """Replace every tensor by an empty one on torch's current default device."""
    for module in clip.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
