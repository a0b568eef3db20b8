"""Families of models that can serve as CLIP: one row each, which says how they compute and where they keep things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gare.common.errors import InputError
from gare.model.architecture import CLIP_DEFAULTS, SIGLIP_DEFAULTS, Architecture, Defaults
from gare.model.pieces import MetaClip2Tokenizer, SiglipTokenizer
from gare.model.pixels import HALVES, OPENAI_PIXELS, Pixels
from gare.model.tokenizer import Tokenizer
from gare.model.transformer import Clip, Siglip


@dataclass(frozen=True)
class Family:
    """Models of one ``model_type``; the methods follow CLIP, and MetaCLIP 2 shares them.

    ``name``: for messages. ``class_name``: transformers' class. ``model``: ours, with the same names of weights.
    ``defaults``: the keys read from each part of a config.json; other keys do not change the computation here.
    ``pixels``: the default if no file states any. ``older_end``: the ``eos_token_id`` that stands for the largest id in
    older configs. ``idle``: parameters that change no result.
    """

    kind: str
    name: str
    class_name: str
    model: Callable[[Architecture], nn.Module]
    tokenizer: type[Tokenizer]
    defaults: Defaults
    pixels: Pixels = OPENAI_PIXELS
    older_end: int | None = None
    idle: tuple[str, ...] = ()

    def check(self, config: Any, where: str) -> None:
        """Raise InputError if a config's towers do not fit the method; its sizes are already within bounds."""
        text = config.text_config
        if isinstance(text.eos_token_id, list) and len(text.eos_token_id) == 1:
            text.eos_token_id = text.eos_token_id[0]
        if type(text.eos_token_id) is not int or not 0 <= text.eos_token_id < text.vocab_size:
            raise InputError(
                f"{where} has eos_token_id: {text.eos_token_id!r:.60}; one id below vocab_size ({text.vocab_size}) is "
                "needed."
            )

    def width(self, config: Any) -> int:
        """Return the width of the embeddings, the same for both towers."""
        return int(config.projection_dim)

    def end_ids(self, config: Any, largest: int) -> set[int]:
        """Return the ids of a text's end that fit a config; ``largest`` is the tokenizer's largest id."""
        value = int(config.text_config.eos_token_id)
        return {value, largest} if value == self.older_end else {value}

    def ends(self, clip: Any) -> tuple[nn.Module, nn.Module]:
        """Return the last modules of the text and the image tower; the first maps hidden states to embeddings."""
        return clip.text_projection, clip.visual_projection

    def texts(self, clip: Any, ids: Tensor, mask: Tensor, end_id: int, pad_id: int) -> tuple[Tensor, Tensor]:
        """Return text vectors [B, D] and word vectors [B, W, D] of token ids and mask [B, W]."""
        del pad_id
        words = clip.text_projection(clip.text_model(ids))
        first_end = ((ids == end_id) & mask).int().argmax(dim=-1)
        return words[torch.arange(len(words), device=words.device), first_end], words

    def images(self, clip: Any, pixels: Tensor) -> Tensor:
        """Return image vectors [N, D] of normalised pixels [N, 3, H, W]."""
        return clip.visual_projection(clip.vision_model(pixels))  # type: ignore[no-any-return]


class _Siglip(Family):
    """SigLIP, which reads a text at its last position, padding included, and has its heads inside its towers."""

    def check(self, config: Any, where: str) -> None:
        """Raise InputError unless both towers end in vectors of the same width."""
        vision, width = config.vision_config, config.text_config.projection_size
        if vision.vision_use_head is not True:
            raise InputError(f"The image tower in {where} has no pooling head, which its vectors come from.")
        if width != vision.hidden_size:
            raise InputError(
                f"The towers in {where} end in vectors of {width} (text) and {vision.hidden_size} (images) numbers; "
                "they have to be of one width."
            )

    def width(self, config: Any) -> int:
        """Return the image tower's own width."""
        return int(config.vision_config.hidden_size)

    def end_ids(self, config: Any, largest: int) -> set[int]:
        """Return 1, which ends a text in all of its tokenizers; its configs repeat CLIP's value."""
        del config, largest
        return {1}

    def ends(self, clip: Any) -> tuple[nn.Module, nn.Module]:
        """Return the heads."""
        return clip.text_model.head, clip.vision_model.head

    def texts(self, clip: Any, ids: Tensor, mask: Tensor, end_id: int, pad_id: int) -> tuple[Tensor, Tensor]:
        """Return the vectors like CLIP; texts are padded to all positions without a mask, as in SigLIP's training."""
        del mask, end_id
        positions = clip.config.text_config.max_position_embeddings
        padded = F.pad(ids, (0, positions - ids.shape[1]), value=pad_id)
        hidden, head = clip.text_model(padded), clip.text_model.head
        return head(hidden[:, -1, :]), head(hidden[:, : ids.shape[1]])

    def images(self, clip: Any, pixels: Tensor) -> Tensor:
        """Return image vectors [N, D] of normalised pixels [N, 3, H, W]."""
        return clip.vision_model(pixels)  # type: ignore[no-any-return]


CLIP = Family("clip", "CLIP", "CLIPModel", Clip, Tokenizer, CLIP_DEFAULTS, older_end=2)
METACLIP_2 = Family("metaclip_2", "MetaCLIP 2", "MetaClip2Model", Clip, MetaClip2Tokenizer, CLIP_DEFAULTS)
SIGLIP = _Siglip(
    "siglip",
    "SigLIP",
    "SiglipModel",
    Siglip,
    SiglipTokenizer,
    SIGLIP_DEFAULTS,
    HALVES,
    # A softmax over pairs does not change when the same number is added to all of its logits.
    idle=("logit_bias",),
)
FAMILIES: Mapping[str, Family] = {family.kind: family for family in (CLIP, SIGLIP, METACLIP_2)}
NAFLEX = "siglip2"
"""The type of the SigLIP 2 models whose images have no fixed size; the others have SigLIP's type."""


def family_of(config: Architecture) -> Family:
    """Return the family of an architecture."""
    return FAMILIES[config.model_type]


def new_model(config: Architecture) -> Any:
    """Make the model of an architecture on the meta device: weights have shapes and no values."""
    with torch.device("meta"):
        return family_of(config).model(config)


def model_of(config: Architecture, weights: Mapping[str, Tensor]) -> Any:
    """Make the model of an architecture with these weights, which become its own, in evaluation mode."""
    clip = new_model(config)
    clip.load_state_dict(weights, assign=True)
    return clip.eval()
