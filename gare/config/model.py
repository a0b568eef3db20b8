"""Settings of the model (the method's sections 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from gare.config.base import Section, key
from gare.config.heads import HEADS

if TYPE_CHECKING:
    HeadName = str
else:
    HeadName = Literal[tuple(HEADS)]


class ModelConfig(Section):
    """CLIP towers, temporal transformer and the increment psi."""

    clip: str = key("openai/clip-vit-base-patch32", "folder or hub id of the CLIP model to start from")
    temporal_layers: int = key(4, "blocks of the temporal transformer over a clip's frames", ge=0, le=256)
    max_frames: int = key(77, "length of the learned frame position table", unit="frames", ge=1, le=2**16)
    head: HeadName = key("gare", "how a text and a video become a score")
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
    dropout: float = key(0.3, "psi's only dropout, drawn per pair, in training", ge=0, lt=1)
    max_logit_scale: float = key(100.0, "the learned exp(logit_scale) is clamped to this after every step", gt=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if self.increment == "none" and self.query != "gap":
            raise ValueError("model.query has no meaning with model.increment: none; leave it at its default")
        return self
