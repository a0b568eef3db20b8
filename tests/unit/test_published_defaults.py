"""Every default that the paper, its released code or this project's choice beside them decides."""

from __future__ import annotations

from gare.config import Config
from gare.config.tree import flatten

PUBLISHED = {
    "model.clip": "openai/clip-vit-base-patch32",
    "model.temporal_layers": 4,
    "model.max_frames": 77,
    "model.pool_temperature": 3.0,
    "model.increment": "cross_attention",
    "model.corrected": "text",
    "model.context": "frames",
    "model.gap_sign": 1,
    "model.query": "gap",
    "model.video_base": "pooled",
    "model.dropout": 0.3,
    "model.max_logit_scale": 100.0,
    "objective.information_bottleneck.weight": 1e-4,
    "objective.information_bottleneck.reduction": "sum",
    "objective.information_bottleneck.anchor": "video",
    "objective.information_bottleneck.prior_sigma": 1.0,
    "objective.information_bottleneck.normalised": False,
    "objective.trust_region.weight": 0.01,
    "objective.trust_region.bound": 0.5,
    "objective.trust_region.form": "hard",
    "objective.trust_region.anchor": "text",
    "objective.direction_diversity.weight": 0.01,
    "objective.direction_diversity.alpha": 2.0,
    "objective.direction_diversity.anchor": "text",
    "objective.direction_diversity.form": "diversity",
    "data.frames": 12,
    "data.sampling": "linspace",
    "data.crop": "centre",
    "data.words": 32,
    "data.captions": "all",
    "data.known_positives": "none",
    "prepare.max_frames": 12,
    "prepare.policy": "fps_linspace",
    "prepare.candidate_fps": 1.0,
    "prepare.short_side": 224,
    "prepare.crop": 224,
    "prepare.resize": "pil",
    "train.global_batch": 128,
    "train.epochs": 5,
    "train.seed": 42,
    "train.increments": "dense",
    "train.lr_clip": 1e-7,
    "train.lr_new": 1e-4,
    "train.beta1": 0.9,
    "train.beta2": 0.98,
    "train.eps": 1e-6,
    "train.weight_decay": 0.2,
    "train.warmup": 0.1,
    "train.max_grad_norm": 1.0,
    "train.freeze": ["patch_embedding"],
}

# The project's own choices, in places where the published recipe is another or says nothing.
OURS = {
    "objective.trust_region.kappa": 10.0,
    "data.repeat_videos": False,
    "data.caption_noise": 0.0,
    "data.augment": "none",
    "data.train_split": "train",
    "data.dev_split": "dev",
    "prepare.storage": "raw",
    "train.optimizer": "adamw",
    "train.chunk": None,
    "train.precision": "fp32",
    "train.ema": None,
    "train.init_from": None,
    "train.select_by": "t2v/R@1",
    "protocol.dev": "held_out",
}


def test_every_default_is_the_published_one_or_the_one_chosen_beside_it():
    values = flatten(Config())
    assert {key: values[key] for key in PUBLISHED | OURS} == PUBLISHED | OURS
