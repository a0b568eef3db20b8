"""Settings that define an experiment: model, objective, batches, protocol and optimisation."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from gare.config.base import Section, key, section
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
        "increment is the difference from psi's output to the video's mean; residual_scaled: that at a learned length",
    )
    video_base: Literal["pooled", "mean"] = key(
        "pooled", "the video vector that is scored: pooled by the text, or mean"
    )
    attention_heads: int = key(1, "attention heads of xpool; a divisor of the embeddings' width", ge=1, le=2**10)
    dropout: float = key(0.3, "the only dropout of psi, or of xpool, drawn per pair, in training", ge=0, lt=1)
    max_logit_scale: float = key(100.0, "the learned exp(logit_scale) is clamped to this after every step", gt=0)

    @property
    def makes_increments(self) -> bool:
        """Return whether pairs get increments, which the regularisers act on."""
        return HEADS[self.head].increments and self.increment != "none"

    @property
    def reads_words(self) -> bool:
        """Return whether the pair head reads the vectors of a text's words."""
        return self.makes_increments and self.context == "words"

    @model_validator(mode="after")
    def _legal(self) -> Self:
        for name in sorted(OF_HEADS - set(HEADS[self.head].reads)):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"model.{name} has no meaning with model.head: {self.head}; leave it at its default")
        if self.increment == "none" and self.query != "gap":
            raise ValueError("model.query has no meaning with model.increment: none; leave it at its default")
        return self


class InformationBottleneckConfig(Section):
    """L_ib, the relaxed variational bottleneck on the increments."""

    weight: float = key(1e-4, "beta; belongs to the named reduction", ge=0)
    reduction: Literal["sum", "mean"] = key("sum", "over the D dimensions; 1e-4 summed is 0.0512 averaged at D = 512")
    anchor: Literal["video", "text"] = key(
        "video", "statistics are taken per video over texts, or per text over videos"
    )
    prior_sigma: float = key(1.0, "standard deviation of the prior N(0, sigma^2)", gt=0)
    normalised: bool = key(False, "use unit increments in this term")


class TrustRegionConfig(Section):
    """L_tr, which spreads the increments' lengths within a bound."""

    weight: float = key(0.01, "lambda_eps", ge=0)
    bound: float = key(0.5, "lambda: the term counts while it is at least -lambda", gt=0)
    form: Literal["hard", "smooth"] = key("hard", "0 past the bound as released, or a smooth maximum")
    anchor: Literal["text", "video"] = key("text", "lengths vary over a text's videos, or over a video's texts")
    kappa: float = key(10.0, "sharpness of the smooth form", gt=0)


class DirectionDiversityConfig(Section):
    """L_dir, which spreads the increments' directions."""

    weight: float = key(0.01, "lambda_dir", ge=0)
    alpha: float = key(2.0, "concentration of the diversity form", gt=0)
    anchor: Literal["text", "video"] = key("text", "directions of a text's increments, or of a video's")
    form: Literal["diversity", "orthogonality"] = key("diversity", "log-mean-exp of cosines, or mean squared cosine")


class ObjectiveConfig(Section):
    """The whole objective; with model.increment: none only InfoNCE counts, and other heads require weights of 0."""

    information_bottleneck: InformationBottleneckConfig = section(InformationBottleneckConfig, "L_ib")
    trust_region: TrustRegionConfig = section(TrustRegionConfig, "L_tr")
    direction_diversity: DirectionDiversityConfig = section(DirectionDiversityConfig, "L_dir")


class DataConfig(Section):
    """Settings that turn a stored row into a training sample."""

    frames: int = key(
        12, "frames per video in a batch; the shards must hold at least as many", unit="frames", ge=1, le=2**16
    )
    sampling: Literal["linspace", "random_segment"] = key(
        "linspace",
        "of more stored frames: evenly by linspace, or one drawn from each of `frames` equal segments in training "
        "and their middles in evaluation",
    )
    crop: Literal["centre", "random"] = key(
        "centre", "of frames stored larger than the model takes: the centre, or in training a place drawn per clip"
    )
    words: int = key(32, "token positions per text, start (if any) and end included", unit="tokens", ge=3, le=2**16)
    captions: Literal["one_per_video", "all"] = key(
        "all", "an epoch visits every caption of a video, or one drawn by the seed"
    )
    repeat_videos: bool = key(
        False, "with captions all, the last batches may hold two captions of one video; else such batches are not made"
    )
    known_positives: Literal["none", "same_video", "attribute"] = key(
        "none",
        "pairs of a batch, off the diagonal, that match and do not count as negatives: none as published; a video's "
        "other captions; or also those of videos with the same value of positives_attribute",
    )
    positives_attribute: str | None = key(
        None, "attribute that near-duplicates share; a video without it matches its own captions only"
    )
    caption_noise: float = key(
        0.0, "share of the training captions replaced by captions of other videos, to measure robustness", ge=0, le=1
    )
    augment: Literal["none", "rand"] = key(
        "none",
        "rand: 4 random operations of magnitude 7 per clip in training, the same on all its frames; needs "
        "gare-ray[augment]",
    )
    train_split: str = key("train", "split that is trained on; not the test split (protocol.test)")
    dev_split: str = key("dev", "split the checkpoint is chosen on; not the test split (protocol.test)")

    @model_validator(mode="after")
    def _attribute_is_named(self) -> Self:
        if (self.known_positives == "attribute") != (self.positives_attribute is not None):
            raise ValueError("data.known_positives=attribute and data.positives_attribute=NAME go together")
        return self


_TEST = re.compile(r"(?<![a-z])(?:\d+k|dev|val|mini)?test(?:s|ing)?(?![a-z])")


def names_test(split: str) -> bool:
    """Return whether a split's name says test: test, Test, test_1k, jsfusion-test, 1ktest, devtest; not latest."""
    return _TEST.search(unicodedata.normalize("NFKC", split).casefold()) is not None


class ProtocolConfig(Section):
    """Limits to the data that a run may learn from and look at."""

    dev: Literal["held_out", "none"] = key(
        "held_out",
        "the dev split is kept out of training and chooses the checkpoint; none: what dev had taken from train is "
        "trained on too, nothing is evaluated and the last epoch is the checkpoint",
    )
    test: Literal["held_out", "used"] = key(
        "held_out",
        "no split with test in its name may be data.train_split or data.dev_split; used: it may, and the run, its "
        "sweep and its evaluations say that its figures on test do not tell how it does on new videos",
    )


Part = Literal["patch_embedding", "token_embedding", "text_tower", "image_tower"]


class TrainConfig(Section):
    """Batch, schedule and optimiser."""

    global_batch: int = key(128, "pairs per optimiser step over all workers", unit="pairs", ge=2)
    epochs: int = key(5, "passes over the training split", ge=1)
    seed: int = key(42, "of initial weights, data order and dropout", ge=0, lt=2**63)
    optimizer: Literal["adamw", "bert_adam"] = key(
        "adamw", "AdamW with no decay on biases, norms, embeddings and logit_scale; or the released rule"
    )
    increments: Literal["dense", "factorised"] = key(
        "dense",
        "psi for every pair as published, or by exact factorised algebra, several times faster: psi's dropout is then "
        "drawn per context, and the bottleneck gets the spread of a draw per pair in closed form",
    )
    lr_clip: float = key(1e-7, "peak learning rate of CLIP's own parameters", gt=0)
    lr_new: float = key(1e-4, "peak learning rate of everything else", gt=0)
    beta1: float = key(0.9, "decay of the gradient's mean", ge=0, lt=1)
    beta2: float = key(0.98, "decay of the gradient's square", ge=0, lt=1)
    eps: float = key(1e-6, "added to the denominator", gt=0)
    weight_decay: float = key(0.2, "decoupled weight decay", ge=0)
    warmup: float = key(0.1, "share of all steps over which the rate rises linearly", ge=0, lt=1)
    max_grad_norm: float = key(1.0, "gradients are clipped to this global norm", gt=0)
    freeze: list[Part] = key(
        ["patch_embedding"],
        "parts of CLIP that stay as they are: its patch convolution (as published), its token embedding, a whole tower",
    )
    chunk: int | None = key(
        None,
        "pairs a worker encodes at once, to fit the memory; the loss is always that of the whole batch; null: all",
        unit="pairs",
        ge=1,
    )
    precision: Literal["fp32", "bf16", "fp16"] = key(
        "fp32", "of the towers' arithmetic; the pair head, the losses and the weights are float32"
    )
    tf32: bool = key(
        False,
        "on GPUs that have it, float32 products and convolutions of factors cut to 10 bits, which is faster",
    )
    deterministic: bool = key(
        False,
        "deterministic algorithms alone, for the same bits from the same run on the same GPU; slower there",
    )
    checkpoint_activations: bool = key(False, "encode each layer of CLIP again in the backward pass, to save memory")
    compile: bool = key(False, "compile CLIP's towers by torch.compile, which takes minutes at the start")
    ema: float | None = key(
        None, "decay of a running average of the weights, which is then what is evaluated and saved", gt=0, lt=1
    )
    init_from: str | None = key(
        None, "checkpoint, or run with one, whose weights training begins with; only its weights are taken over"
    )
    select_by: str = key("t2v/R@1", "dev metric the best checkpoint is chosen by (higher is better)")
