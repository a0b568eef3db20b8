"""Settings of the model (the method's sections 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from gare.config.base import Section, key
from gare.config.heads import HEADS, OF_HEADS

if TYPE_CHECKING:
    HeadName = str
else:
    HeadName = Literal[tuple(HEADS)]


class ModelConfig(Section):
    """CLIP towers, temporal transformer and pair head."""

    clip: str = key("openai/clip-vit-base-patch32", "folder or hub id of the CLIP, SigLIP or MetaCLIP 2 to start from")
    temporal_layers: int = key(
        4,
        "blocks of the temporal transformer over a clip's frames; with 0, gare still adds frame positions, and the "
        "other heads take the frames as CLIP embeds them",
        ge=0,
        le=256,
    )
    max_frames: int = key(77, "length of the learned frame position table", unit="frames", ge=1, le=2**16)
    head: HeadName = key(
        "gare",
        "how a text and a video become a score: by an increment for every pair; as X-Pool, whose text pools the frames "
        "by cross-attention; or as CLIP4Clip's mean pooling, without parameters",
    )
    pool_temperature: float = key(3.0, "temperature of the text-conditioned pooling over frames", gt=0)
    increment: Literal["cross_attention", "none"] = key(
        "cross_attention", "how a pair gets its increment; none is the plain cosine baseline"
    )
    corrected: Literal["text", "video"] = key("text", "which side of the pair the increment is added to")
    context: Literal["frames", "words"] = key("frames", "what psi attends to: the video's frames or the text's words")
    gap_sign: Literal[1, -1] = key(1, "eta: sign of the modality gap (video mean minus text) in psi's query gap")
    query: Literal["gap", "text", "residual", "residual_scaled"] = key(
        "gap",
        "psi's query: the modality gap, or the text alone (control); residual: the query is the text, and the "
        "increment is what psi's output lacks to the video's mean; residual_scaled: that at a learned length",
    )
    video_base: Literal["pooled", "mean"] = key(
        "pooled", "the video vector that is scored: pooled by the text, or mean"
    )
    attention_heads: int = key(1, "attention heads of xpool; a divisor of the embeddings' width", ge=1, le=2**10)
    dropout: float = key(0.3, "the only dropout of psi, or of xpool, drawn per pair, in training", ge=0, lt=1)
    max_logit_scale: float = key(100.0, "the learned exp(logit_scale) is clamped to this after every step", gt=0)

    @property
    def makes_increments(self) -> bool:
        """Whether a pair gets an increment, which the regularisers act on."""
        return HEADS[self.head].increments and self.increment != "none"

    @model_validator(mode="after")
    def _legal(self) -> Self:
        for name in sorted(OF_HEADS - set(HEADS[self.head].reads)):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"model.{name} has no meaning with model.head: {self.head}; leave it at its default")
        if self.increment == "none" and self.query != "gap":
            raise ValueError("model.query has no meaning with model.increment: none; leave it at its default")
        return self
