"""Show training's progress to a person."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gare.common.console import Meter, meter, note, warn

POLL_SECONDS = 0.5
SHOWN = ("t2v/R@1", "t2v/R@5", "v2t/R@1")


@contextmanager
def training_view(name: str, epochs: int, *, quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield the function that shows a row of a run's history; at the end, print a summary of the run."""
    if quiet:
        yield lambda _: None
        return
    with meter(name, timed=False) as shown:
        view = TrainingView(epochs, shown)
        shown.update(0, "starting")
        yield view.show
    view.close()


class TrainingView:
    """A live line of training's progress, a line per epoch, and a closing one."""

    def __init__(self, epochs: int, shown: Meter) -> None:
        self._meter, self._epochs = shown, epochs
        self._clock = Clock()
        self._speeds: list[dict[str, float]] = []
        self._losses: list[float] = []
        self._dev = ""
        self._last: dict[str, Any] = {}

    def show(self, row: dict[str, Any]) -> None:
        """Show an entry of the history."""
        self._meter.total, self._last = row["total"], row
        if "warning" in row:
            warn(row["warning"])
        elif "epoch" in row:
            self._epoch(row)
        elif "train/loss" in row:
            self._step(row)

    def close(self) -> None:
        """Print a summary, if anything was trained."""
        if self._speeds:
            memory = max(speed.get("memory/cuda_gib", speed["memory/rss_gib"]) for speed in self._speeds)
            note(
                f"{self._last['step']} steps, {duration(self._last['seconds'])} in all: "
                f"{samples_per_second(self._speeds):,.0f} samples/s, {data_wait(self._speeds):.1%} of a step's time "
                f"waiting for data, at most {memory:.2f} GiB a worker"
            )

    def _step(self, row: dict[str, Any]) -> None:
        step, total = row["step"], row["total"]
        left = self._clock.left(step, total)
        epoch = -(-step * self._epochs // total)
        parts = [f"epoch {epoch}/{self._epochs}", f"loss {row['train/loss']:.3f}", self._dev]
        if "speed/samples_per_second" in row:
            self._speeds.append(row)
            parts += [f"{row['speed/samples_per_second']:,.0f}/s", f"wait {row['speed/data_wait']:.0%}"]
        parts += [] if left is None else [f"ETA {duration(left)}"]
        self._losses.append(row["train/loss"])
        self._meter.update(step, "  ".join(part for part in parts if part))

    def _epoch(self, row: dict[str, Any]) -> None:
        metrics = "  ".join(f"{name} {row[f'dev/{name}']:.1f}" for name in SHOWN if f"dev/{name}" in row)
        loss = f"loss {sum(self._losses) / len(self._losses):.3f}  " if self._losses else ""
        self._losses = []
        self._dev = f"R@1 {row['dev/t2v/R@1']:.1f}" if "dev/t2v/R@1" in row else ""
        note(f"epoch {row['epoch']}: {f'dev {metrics}' if metrics else 'no dev split'}  {loss}({row['seconds']:.0f} s)")


class Clock:
    """Time since the first observed step, which is not step 0 in a resumed run."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def left(self, step: int, total: int) -> float | None:
        """Return the seconds until the last step at the pace so far, evaluations included; None at first."""
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
        steps, seconds = step - self._first[0], now - self._first[1]
        return (total - step) * seconds / steps if steps > 0 else None


def samples_per_second(rows: Sequence[Mapping[str, float]]) -> float:
    """Return the rate over entries of equally many steps each."""
    return len(rows) / sum(1 / max(row["speed/samples_per_second"], 1e-9) for row in rows)


def data_wait(rows: Sequence[Mapping[str, float]]) -> float:
    """Return the share of the time spent waiting, over entries of equally many steps each."""
    seconds = sum(row["speed/step_seconds"] for row in rows)
    return sum(row["speed/data_wait"] * row["speed/step_seconds"] for row in rows) / max(seconds, 1e-9)


def duration(seconds: float) -> str:
    """Format minutes and seconds, and hours if there are any: 3:07, 1:02:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def follow(path: Path, on_row: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call ``on_row`` with every row that another process appends to a history file, while the block runs."""
    stop = threading.Event()
    start = path.stat().st_size if path.is_file() else 0
    thread = threading.Thread(target=_tail, args=(path, start, on_row, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def _tail(path: Path, position: int, on_row: Callable[[dict[str, Any]], None], stop: threading.Event) -> None:
    while True:
        last_look = stop.wait(POLL_SECONDS)
        if path.is_file():
            with path.open("rb") as stream:
                # A resumed run may have shortened the file.
                position = min(position, path.stat().st_size)
                stream.seek(position)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    with suppress(ValueError):  # a resumed run rewrote the file during the read
                        on_row(json.loads(line))
        if last_look:
            return
