"""The settings: one frozen tree with one vocabulary of dotted keys.

Defaults are the published MSR-VTT ViT-B/32 recipe. ``runtime.*`` may change between a run and its resume and
``sweep.*`` describes many experiments; everything else is the experiment, and ``Config.digest`` names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import model_validator

from gare.common.files import digest_of
from gare.config.base import Section, section
from gare.config.experiment import DataConfig, ModelConfig, ObjectiveConfig, ProtocolConfig, TrainConfig, names_test
from gare.config.heads import HEADS, NO_INCREMENTS
from gare.config.prepare import PrepareConfig
from gare.config.runtime import RuntimeConfig
from gare.config.sweep import SweepConfig

NOT_THE_EXPERIMENT = frozenset({"runtime", "sweep"})
LATER: tuple[tuple[str, str, Any], ...] = (
    ("prepare", "square_pixels", True),
    ("train", "tf32", False),
    ("train", "deterministic", False),
    ("protocol", "test", "held_out"),
    ("prepare", "square_pixels", None),
    ("protocol", "test", None),
    ("model", "head", "gare"),
    ("model", "attention_heads", 1),
    ("prepare", "decoder", "pyav"),
)
"""Settings of the experiment that came later, in the order in which digests began to omit them.

Earlier runs keep their names because a setting is omitted at this value or, with None, always: the dataset or the names
of the splits imply it then.
"""


def without_later(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Remove the ``LATER`` settings from a plain tree, one after the other; yields it before and after each."""
    yield tree
    for name, key, value in LATER:
        if key in tree.get(name, {}) and value in (None, tree[name][key]):
            del tree[name][key]
        yield tree


class Config(Section):
    """The root of the tree."""

    model: ModelConfig = section(ModelConfig, "the model")
    objective: ObjectiveConfig = section(ObjectiveConfig, "the objective")
    data: DataConfig = section(DataConfig, "batches from shards")
    prepare: PrepareConfig = section(PrepareConfig, "the decode recipe")
    train: TrainConfig = section(TrainConfig, "the optimisation")
    protocol: ProtocolConfig = section(ProtocolConfig, "what chooses the checkpoint")
    sweep: SweepConfig = section(SweepConfig, "a sweep around this experiment")
    runtime: RuntimeConfig = section(RuntimeConfig, "places, workers, devices, logging")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.data.frames > self.prepare.max_frames:
            raise ValueError(
                f"data.frames is {self.data.frames} but prepare.max_frames stores {self.prepare.max_frames}; "
                "store at least as many as are used"
            )
        if self.data.frames > self.model.max_frames:
            raise ValueError(f"data.frames is {self.data.frames}, more than model.max_frames {self.model.max_frames}")
        if self.prepare.crop is not None and self.prepare.crop > self.prepare.short_side:
            raise ValueError(
                f"prepare.crop {self.prepare.crop} is larger than prepare.short_side {self.prepare.short_side}"
            )
        if not self.runtime.worker_counts(self.train.global_batch):
            raise ValueError(
                f"train.global_batch {self.train.global_batch} cannot be shared evenly by "
                f"runtime.workers {self.runtime.workers}"
            )
        self._check_increments()
        if self.data.train_split == self.data.dev_split:
            raise ValueError(f"data.train_split and data.dev_split are both {self.data.dev_split!r}")
        for name in ("train_split", "dev_split"):
            split = getattr(self.data, name)
            if self.protocol.test == "held_out" and names_test(split):
                use = "trained on" if name == "train_split" else "used to choose the checkpoint"
                raise ValueError(
                    f"data.{name} is {split!r}, but a test split that is {use} measures nothing; name another split, "
                    "or set protocol.test=used, which the run's record and its evaluations then say"
                )
        return self

    def _check_increments(self) -> None:
        """Refuse settings that act on increments if the head makes none."""
        head = self.model.head
        if HEADS[head].increments:
            return
        weights = {name: term["weight"] for name, term in self.objective.model_dump().items()}
        named = " ".join(f"--set objective.{name}.weight=0" for name, weight in weights.items() if weight)
        if named:
            raise ValueError(f"{NO_INCREMENTS.format(head)} for a regulariser to act on; add {named}")
        if self.train.increments != "dense":
            raise ValueError(f"{NO_INCREMENTS.format(head)}, so leave train.increments at dense")

    def experiment(self) -> dict[str, Any]:
        """Return the plain tree of the settings that define the experiment.

        ``LATER`` settings are included only if they change something, so that earlier runs keep their names.
        """
        *_, tree = without_later(self.model_dump(mode="json", exclude=set(NOT_THE_EXPERIMENT)))
        return tree

    def shared_anchor(self) -> Literal["text", "video"] | None:
        """Return the anchor whose pairs share a mask of psi's dropout in training; None if every pair has its own."""
        model = self.model
        if self.train.increments == "dense" or not model.makes_increments or model.dropout == 0:
            return None
        return "video" if model.context == "frames" else "text"

    def digest(self) -> str:
        """Return the experiment's name: 16 hex digits over everything but ``runtime.*`` and ``sweep.*``."""
        return digest_of(self.experiment())

    def run_name(self) -> str:
        """Return ``runtime.name``, or the experiment's digest."""
        return self.runtime.name or self.digest()


__all__ = [
    "NOT_THE_EXPERIMENT",
    "Config",
    "DataConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PrepareConfig",
    "ProtocolConfig",
    "RuntimeConfig",
    "SweepConfig",
    "TrainConfig",
]
