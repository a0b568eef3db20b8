"""What training keeps beside model and optimiser: the loss scaler of fp16 and the average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from gare.config import Config
from gare.model.gare import GareModel
from gare.runs.checkpoints import Parts
from gare.training.ema import Ema
from gare.training.precision import make_scaler


class Extras:
    """``scaler`` with ``train.precision`` fp16, ``ema`` with ``train.ema``; None otherwise."""

    def __init__(self, model: GareModel, config: Config) -> None:
        self.scaler = make_scaler(config.train, model.clip.logit_scale.device)
        self.ema = None if config.train.ema is None else Ema(model, config.train.ema)

    @property
    def by_name(self) -> dict[str, Any]:
        """Those that are there, by the names under which a checkpoint keeps their state."""
        both = {"scaler": self.scaler, "ema": self.ema}
        return {name: extra for name, extra in both.items() if extra is not None}

    def parts(self, model: GareModel, optimiser: Optimizer) -> Parts:
        """All that a checkpoint holds."""
        averaged = None if self.ema is None else self.ema.model_state
        return Parts(model, optimiser, self.by_name, averaged)

    def restart(self) -> None:
        """Begin anew after the model was given other weights."""
        if self.ema is not None:
            self.ema.restart()

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Let the model have the weights that are evaluated while the block runs."""
        if self.ema is None:
            yield
            return
        with self.ema.in_place():
            yield
