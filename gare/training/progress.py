"""Training as a person watches it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gare.common.console import Meter, meter, note

POLL_SECONDS = 0.5


@contextmanager
def training_view(title: str, *, quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield the function that shows a row of the run's history."""
    if quiet:
        yield lambda _: None
        return
    with meter(title) as shown:
        yield lambda row: _show(shown, row)


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
                    with suppress(ValueError):  # a resumed run rewrote the file under us
                        on_row(json.loads(line))
        if last_look:
            return


def _show(shown: Meter, row: dict[str, Any]) -> None:
    shown.total = row["total"]
    if "epoch" in row:
        shown_metrics = [name for name in ("dev/t2v/R@1", "dev/t2v/R@5", "dev/v2t/R@1") if name in row]
        text = "  ".join(f"{name.removeprefix('dev/')} {row[name]:.1f}" for name in shown_metrics)
        note(f"epoch {row['epoch']}: {f'dev {text}' if text else 'no dev split'}  ({row['seconds']:.0f} s)")
    else:
        shown.update(row["step"], f"loss {row['train/loss']:.3f}")
