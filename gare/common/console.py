"""What a person sees: results on standard output, everything on the way on standard error.

On a terminal, progress is a live bar; elsewhere it is a plain line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from gare.common.redact import printable

PLAIN_LINE_SECONDS = 5.0
PLAIN_WIDTH = 160


class _PlainConsole(Console):
    """A console on which text from data stays text."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def _console(stream: object, *, terminal: bool) -> Console:
    width = None if terminal else PLAIN_WIDTH
    return _PlainConsole(file=stream, width=width, highlight=False, emoji=False, soft_wrap=not terminal)  # type: ignore[arg-type]


def output() -> Console:
    """The console for results (standard output)."""
    return _console(sys.stdout, terminal=sys.stdout.isatty())


def notes() -> Console:
    """The console for progress and remarks (standard error)."""
    return _console(sys.stderr, terminal=sys.stderr.isatty())


def say(text: str) -> None:
    """Say one plain line of the result."""
    output().print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Say one plain line on the way."""
    notes().print(escape(text))


def warn(text: str) -> None:
    """Say what may be wrong, without stopping."""
    notes().print(f"[yellow]warning:[/yellow] {escape(text)}")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a result table; cells are shown as text, numbers aligned right."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    rows = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(f"{cell:.2f}" if isinstance(cell, float) else str(cell)) for cell in row))
    output().print(table)


class Meter:
    """Progress of one piece of work: a bar on a terminal, a line now and then elsewhere."""

    def __init__(
        self, title: str, total: int | None, progress: Progress | None, *, start: int = 0, timed: bool = True
    ) -> None:
        self._title, self.total, self._progress, self._timed = title, total, progress, timed
        self._task = progress.add_task(printable(title), total=total, completed=start, extra="") if progress else None
        self._started = self._last = time.monotonic()
        self._start = self.done = start

    def update(self, done: int, extra: str = "") -> None:
        """Set how much is done, with a short remark beside it."""
        self.done = done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=self.total, extra=printable(extra))
            return
        now = time.monotonic()
        # The longer it takes, the fewer the lines: a log of days stays readable.
        if now - self._last >= max(PLAIN_LINE_SECONDS, (now - self._started) / 100) or done == self.total:
            self._last = now
            of = f"/{self.total}" if self.total is not None else ""
            note(f"{self._title}: {done}{of}{self._rate(done, now)} {extra}".rstrip())

    def _rate(self, done: int, now: float) -> str:
        if not self._timed:
            return ""
        rate = (done - self._start) / max(now - self._started, 1e-9)
        if self.total is None or done >= self.total or rate <= 0:
            return f" ({rate:.1f}/s)"
        return f" ({rate:.1f}/s, {timedelta(seconds=round((self.total - done) / rate))} left)"


@contextmanager
def meter(title: str, total: int | None = None, *, start: int = 0, timed: bool = True) -> Iterator[Meter]:
    """Show the progress of the work inside the block.

    ``start``: what was done before, which is no part of the rate; not ``timed``: its remarks tell rate and time left.
    """
    console = notes()
    if not console.is_terminal:
        yield Meter(title, total, None, start=start, timed=timed)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=40 if timed else None),
        *((TaskProgressColumn(),) if timed else ()),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        *((TimeRemainingColumn(),) if timed else ()),
        TextColumn("{task.fields[extra]}", markup=False),
    )
    with Progress(*columns, console=console, expand=not timed) as progress:
        yield Meter(title, total, progress, start=start, timed=timed)
