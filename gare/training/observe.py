"""Measure a run while it trains: the history's entries, diagnostics, collapsed increments, use of the machine."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from gare.common.files import make_folder
from gare.config.heads import HEADS
from gare.data.batches import Batch
from gare.diagnostics.figure import increment_figure
from gare.diagnostics.measures import (
    PairState,
    increment_spread,
    pair_diagnostics,
    relative_length,
    spread,
    step_diagnostics,
)
from gare.diagnostics.pairs import batch_state, split_state
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.objective.world import World
from gare.runs.inputs import TrainingData
from gare.runs.layout import DIAGNOSTICS
from gare.runs.run import Run
from gare.runs.state import History

DIAGNOSED_PAIRS = 64
SHORTEST, LEAST_SPREAD = 0.01, 0.01
"""Below these shares the increments count as collapsed; with trained towers untrained ones have 0.1 to 1 and 0.08."""

OF_THE_SOURCE = 0.1
"""Increments that differ by more than this share of what they are made of have not collapsed: that has."""


GIB = 2**30
_without_utilisation: set[torch.device] = set()


@dataclass(frozen=True)
class Watched:
    """The observed parts of a run, in addition to the steps' own values."""

    model: GareModel
    tokenizer: Tokenizer
    optimiser: Optimizer
    data: TrainingData


@dataclass
class Window:
    """The steps since the last entry, summed."""

    steps: int = 0
    samples: int = 0
    waited_s: float = 0.0
    seconds: float = 0.0

    def add(self, waited_s: float, seconds: float, samples: int) -> None:
        """Count a step."""
        self.steps, self.samples = self.steps + 1, self.samples + samples
        self.waited_s, self.seconds = self.waited_s + waited_s, self.seconds + seconds


class Observer:
    """Measures a run and writes its history. Make one on every rank, and call its methods at the same steps there.

    ``history``: rank 0's; None elsewhere. ``elapsed_s``: the run's time before this start, in seconds.
    """

    def __init__(
        self, run: Run, world: World, watched: Watched, history: History | None, elapsed_s: float = 0.0
    ) -> None:
        self._config, self._pictures = run.config, run.folder / DIAGNOSTICS
        self._ranks, self._watched, self._history = world, watched, history
        self._begun = time.monotonic() - elapsed_s
        self._device = watched.model.clip.logit_scale.device
        self._window = Window()
        self._before: tuple[Batch, PairState] | None = None
        self._looking_s = 0.0
        self._warned = not run.config.model.makes_increments

    @property
    def seconds(self) -> float:
        """Return the run's time in seconds, including that before a resume."""
        return time.monotonic() - self._begun

    def before_step(self, step: int, batch: Batch) -> None:
        """Measure the state before a diagnosed step; ``step``: steps taken, ``batch``: this rank's next one."""
        if self._history is not None and self._diagnosed(step + 1):
            begun = time.monotonic()
            self._before = batch, batch_state(self._watched.model, batch, DIAGNOSED_PAIRS)
            self._looking_s = time.monotonic() - begun

    def after_step(self, step: int, values: dict[str, float], waited_s: float, seconds: float, samples: int) -> None:
        """Record a step if it is due (``runtime.log_every``, ``runtime.diagnose_every``).

        ``step``: steps taken, this one included; ``values``: of ``train_step``; ``waited_s``: seconds waited for the
        batch, out of the step's ``seconds`` from requesting the batch to the update's end, which may include
        ``before_step``; ``samples``: of the whole batch, over all ranks.
        """
        self._window.add(waited_s, seconds - self._looking_s, samples)
        self._looking_s = 0.0
        if step % self._config.runtime.log_every == 0 or step == self._watched.data.steps:
            row = {f"train/{name}": value for name, value in values.items()}
            row["train/logit_scale"] = float(self._watched.model.logit_scale.detach())
            row |= {f"train/lr/{group['name']}": float(group["lr"]) for group in self._watched.optimiser.param_groups}
            self._add(step, row | self._speed())
        if self._history is not None and self._diagnosed(step):
            self._diagnose(step)

    def after_epoch(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Record an epoch's end with the dev metrics, and warn if the increments have collapsed."""
        if self._history is not None:
            if not self._warned and not self._diagnosed(step):
                self._warn(step, self._pairs())
            self._add(step, {"epoch": epoch, **metrics})

    def _add(self, step: int, row: Mapping[str, float | str]) -> None:
        if self._history is not None:
            self._history.add(step, self._watched.data.steps, self.seconds, row)

    def _speed(self) -> dict[str, float]:
        """Return the speed since the last call, and each device's value on the worst rank: call on every rank."""
        window, self._window = self._window, Window()
        used = gpu_utilisation(self._device)
        own = [window.waited_s, peak_rss(), peak_cuda(self._device), -math.inf if used is None else 1 - used]
        waited_s, rss, cuda, idle = self._ranks.max(torch.tensor(own, dtype=torch.float64)).tolist()
        seconds = max(window.seconds, 1e-9)
        row = {
            "speed/samples_per_second": window.samples / seconds,
            "speed/step_seconds": seconds / max(window.steps, 1),
            "speed/data_wait": min(waited_s / seconds, 1.0),
            "memory/rss_gib": rss,
        }
        on_gpu = {"memory/cuda_gib": cuda, "speed/gpu_utilisation": 1 - idle}
        return row | {name: value for name, value in on_gpu.items() if value and math.isfinite(value)}

    def _diagnosed(self, step: int) -> bool:
        every, head = self._config.runtime.diagnose_every, HEADS[self._config.model.head]
        return head.increments and every is not None and step % every == 0

    def _pairs(self) -> PairState:
        """Return the state of the same pairs each time: of dev, or of train if dev has fewer than two of them."""
        watched, data = self._watched, self._watched.data
        captioned = 0 if data.dev is None else sum(1 for video in data.dev.videos if video.captions)
        split = data.dev if data.dev is not None and captioned > 1 else data.train
        return split_state(watched.model, watched.tokenizer, split, self._config, DIAGNOSED_PAIRS)

    def _diagnose(self, step: int) -> None:
        """Record and draw the increments, and the effect of this step on them."""
        state = self._pairs()
        figures = pair_diagnostics(state)
        if self._before is not None:
            batch, before = self._before
            figures |= step_diagnostics(before, batch_state(self._watched.model, batch, DIAGNOSED_PAIRS))
            self._before = None
        if len(state.text) > 1:
            path = make_folder(self._pictures) / f"step-{step:06d}.png"
            increment_figure(state, path, title=f"What the increment does after {step} steps")
        self._add(step, {f"diagnostics/{name}": value for name, value in figures.items() if math.isfinite(value)})
        self._warn(step, state)

    def _warn(self, step: int, state: PairState) -> None:
        """Record a collapse, the first time."""
        text = None if self._warned else collapse_warning(state)
        if text is not None:
            self._warned = True
            self._add(step, {"warning": f"After step {step}, {text}"})


def collapse_warning(state: PairState) -> str | None:
    """Return a warning that the increments have collapsed, with the settings to look at; None otherwise.

    They have collapsed if their mean length is below 1 % of the vectors they are added to (``relative_length``), or if
    they differ between pairs by less than 1 % of their length (``increment_spread``) and by less than a tenth of what
    texts and videos differ by: towers that have learned nothing yet make vectors that hardly differ, and increments
    made of them cannot. A single pair shows neither.
    """
    if len(state.text) < 2:
        return None
    length = float(relative_length(state))
    if length < SHORTEST:
        return (
            f"the increments are {length:.2g} of the length of the {state.corrected}s they are added to, so the scores "
            "are those of the plain baseline. objective.information_bottleneck.weight may be too large (it belongs to "
            "its reduction), or train.lr_new too high."
        )
    differ = float(increment_spread(state.delta))
    source = float(min(spread(state.text), spread(state.video).mean()))
    if differ < min(LEAST_SPREAD, OF_THE_SOURCE * source):
        return (
            f"the increments of different pairs differ by {differ:.2g} of their length, so all pairs get the same one "
            "and it does not distinguish videos. objective.direction_diversity.weight and "
            "objective.trust_region.weight spread them; train.lr_new may be too high."
        )
    return None


def peak_rss() -> float:
    """Return this process's peak memory in GiB; a process started by another may report that one's peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB


def peak_cuda(device: torch.device) -> float:
    """Return the peak memory of torch's tensors on a GPU in GiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else 0.0


def gpu_utilisation(device: torch.device) -> float | None:
    """Return the share of recent time in which a GPU was busy, 0 to 1; None on a CPU or if nothing reports it.

    torch asks pynvml, which need not be installed.
    """
    if device.type != "cuda" or device in _without_utilisation:
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # whatever pynvml raises without a driver, in a container, on a part of a GPU  # noqa: BLE001
        _without_utilisation.add(device)
        return None
