"""Run one trial: a training run whose epochs are reported to Tune, with a last report of how it ended."""

from __future__ import annotations

import json
import math
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ray import tune as ray_tune

from gare.config import Config
from gare.config.tree import build, with_overrides
from gare.runs.state import RunSummary

OUTCOME = "outcome"
END_SECONDS = 60.0


class Trainer(Protocol):
    """A trial's training function: ``gare.launch.ray_train.fit``, or a replacement for it."""

    def __call__(
        self,
        config: Config,
        *,
        callbacks: Sequence[Any],
        quiet: bool,
        stop: threading.Event,
        **place: str,
    ) -> RunSummary:
        """Train to the end and return the run's summary; raise if asked to stop before.

        ``place``: its ``zone``, if there are several.
        """


def chosen(index: int, name: str, overrides: Mapping[str, Any], zone: str | None = None) -> dict[str, Any]:
    """Make a trial's input from Tune, with the overrides as text because Tune would interpret them."""
    return {"trial": index, "name": name, "overrides": json.dumps(overrides), "zone": zone}


def trial_config(config: Config, name: str, overrides: Mapping[str, Any]) -> Config:
    """Build the settings of one trial: an ordinary experiment, in its own folder inside the sweep's."""
    values = with_overrides(config, overrides).model_dump(mode="json")
    values["runtime"]["name"] = f"{config.run_name()}/{name}"
    del values["sweep"]
    return build(values)


def train_with_ray(
    config: Config,
    *,
    callbacks: Sequence[Any],
    quiet: bool,
    stop: threading.Event,
    **place: str,
) -> RunSummary:
    """Train with Ray Train workers. This process, which reports the run to the tracker, ends with its workers."""
    from gare.launch.ray_controller import LIGHTER
    from gare.launch.ray_ranks import ending_without_head

    for name, value in LIGHTER.items():
        os.environ.setdefault(name, value)
    from gare.launch.ray_train import fit

    with ending_without_head():
        return fit(config, callbacks=callbacks, quiet=quiet, stop=stop, **place)


class TrialActor(ray_tune.Trainable):  # type: ignore[misc]
    """The process of a trial, reused for later ones, which then find everything imported.

    Training runs in a thread, so that Tune can end it at any time; every step waits for an epoch or for the end.
    """

    def setup(self, config: dict[str, Any], sweep: dict[str, Any], trainer: Trainer) -> None:
        """Prepare for the first trial of a sweep with these settings."""
        self._sweep, self._trainer = sweep, trainer
        self._next: dict[str, Any] | None = dict(config)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare for the next trial after the previous one ended."""
        self.cleanup()
        self._next = dict(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next report from training."""
        self.begin()
        return self._events.get()

    def cleanup(self) -> None:
        """End training. If that fails, the process exits and is not used again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=END_SECONDS)
            if self._thread.is_alive():
                os._exit(1)

    def begin(self) -> None:
        """Start training, unless it has started.

        This waits for the first step because Tune makes a process for a trial that it then gives to another one that
        became free.
        """
        if self._next is None:
            return
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stop = threading.Event()
        arguments = (self._next, self._sweep, self._trainer, self._events.put, self._stop)
        self._next, self._thread = None, threading.Thread(target=run_trial, args=arguments, daemon=True)
        self._thread.start()


def run_trial(
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    trainer: Trainer,
    tell: Callable[[dict[str, Any]], None],
    stop: threading.Event,
) -> None:
    """Train the ``chosen`` trial of a sweep with these settings; report its epochs and, last, its outcome.

    A failure is an outcome too: an exception would reach the driver as pages of Ray's traceback.
    """
    sweep = build(settings)
    own = trial_config(sweep, config["name"], json.loads(config["overrides"]))
    metric = sweep.sweep.metric
    outcome: dict[str, Any]
    value = math.nan  # the one value that asha compares with no other trial
    try:
        callbacks = [_epoch_reports(own.train.epochs, tell)]
        place = {"zone": config["zone"]} if config.get("zone") is not None else {}
        summary = trainer(own, callbacks=callbacks, quiet=True, stop=stop, **place)
    except Exception as error:  # noqa: BLE001 - any error ends this trial, not the sweep
        first = (str(error).strip() or "no message").splitlines()[0]
        outcome = {"status": "failed", "error": f"{type(error).__name__}: {first}"}
    else:
        value = summary.best_metrics.get(metric, math.nan)
        outcome = {
            "status": "done",
            "metrics": dict(summary.best_metrics),
            "best": str(summary.best),
            "steps": summary.steps,
            "epochs": summary.epochs,
            "train_s": summary.seconds,
        }
        if not math.isfinite(value):
            outcome |= {"status": "failed", "error": f"The run ended without a finite {metric}."}
    tell({"epoch": own.train.epochs, metric: value, OUTCOME: outcome, "done": True})


def _epoch_reports(epochs: int, tell: Callable[[dict[str, Any]], None]) -> Any:
    from ray.train import UserCallback

    class EpochReports(UserCallback):  # type: ignore[misc]
        """A callback that reports the metrics of every epoch but the last.

        At the last one asha would stop the trial before its outcome is known.
        """

        def __reduce__(self) -> Any:
            """Return an empty callback: Ray sends its settings to the workers too, where it has nothing to do."""
            return UserCallback, ()

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            del run_context, checkpoint
            if metrics[0]["epoch"] < epochs:
                tell({name: value for name, value in metrics[0].items() if name != "history"})

    return EpochReports()


class Zones:
    """Assigns zones to trials that run at the same time.

    ``places``: the zone of each; None if there are no zones. Tune does not count the workers that a trial starts, and
    trials that looked for capacity themselves at the same moment would all find the same. Ray may still place a trial
    elsewhere if its zone has lost nodes.
    """

    def __init__(self, places: Sequence[str | None]) -> None:
        self._places = Counter(places)
        self._taken: dict[int, str | None] = {}

    @property
    def slots(self) -> int:
        """Return the number of trials that fit at the same time."""
        return self._places.total()

    def take(self, trial: int) -> str | None:
        """Give a trial the zone with most places left."""
        left = self._places.copy()
        left.subtract(zone for index, zone in self._taken.items() if index != trial)
        zone = max(sorted(left, key=str), key=lambda one: left[one])
        self._taken[trial] = zone
        return zone

    def give_back(self, trial: int) -> None:
        """Free a trial's place; does nothing if it has none."""
        self._taken.pop(trial, None)
