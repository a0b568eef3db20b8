"""Training state in addition to model and optimiser: the loss scaler of fp16 and the running average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gare.config import Config
from gare.model.gare import GareModel
from gare.runs.checkpoints import Parts


class Ema:
    """The exponential moving average of a model's trained weights, in float32.

    After n updates the decay is at most (1 + n) / (10 + n), so that the initial weights soon lose their influence.
    """

    def __init__(self, model: GareModel, decay: float) -> None:
        self._model, self._decay = model, decay
        self.restart()

    def restart(self) -> None:
        """Start with the model's present weights."""
        self._average, self._updates = self._copy(), 0

    @torch.no_grad()
    def update(self) -> None:
        """Add the present weights to the average; call after every optimiser step."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        for name, value in self._trained():
            self._average[name].lerp_(value, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the average while the block runs."""
        raw = self._copy()
        self._put(self._average)
        try:
            yield
        finally:
            self._put(raw)

    def model_state(self) -> dict[str, Tensor]:
        """Return the model's state with the averaged trained weights, which a checkpoint saves as its model."""
        return {**self._model.state_dict(), **self._average}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resume needs in addition to ``model_state``: raw weights and number of updates."""
        return {"weights": self._copy(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``; the model has to hold that moment's ``model_state``.

        Raises ValueError for the state of another model.
        """
        weights, updates = state["weights"], state["updates"]
        fit = all(
            weights[name].shape == value.shape and bool(torch.isfinite(weights[name]).all())
            for name, value in self._trained()
        )
        if not fit or type(updates) is not int or updates < 0:
            raise ValueError("the weights of another model, or damaged ones")
        self._average, self._updates = self._copy(), updates
        self._put(weights)

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, p.detach()) for name, p in self._model.named_parameters() if p.requires_grad)

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self._trained()}

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, value in self._trained():
            value.copy_(values[name])


class Extras:
    """``scaler`` with ``train.precision`` fp16, ``ema`` with ``train.ema``; None otherwise."""

    def __init__(self, model: GareModel, config: Config) -> None:
        fp16 = config.train.precision == "fp16"  # its gradients would vanish unscaled
        self.scaler = torch.amp.GradScaler(model.clip.logit_scale.device.type) if fp16 else None
        self.ema = None if config.train.ema is None else Ema(model, config.train.ema)

    def parts(self, model: GareModel, optimiser: Optimizer) -> Parts:
        """Return everything that a checkpoint holds."""
        averaged = None if self.ema is None else self.ema.model_state
        both: dict[str, Any] = {"scaler": self.scaler, "ema": self.ema}
        extras = {name: extra for name, extra in both.items() if extra is not None}
        return Parts(model, optimiser, extras, averaged)

    def restart(self) -> None:
        """Start over after the model was given other weights."""
        if self.ema is not None:
            self.ema.restart()

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Give the model the weights to evaluate while the block runs."""
        if self.ema is None:
            yield
            return
        with self.ema.in_place():
            yield
