"""Print for people: results on standard output, notes, warnings and progress on standard error.

Progress is a live bar on a terminal, one changing line in a notebook, and occasional plain lines elsewhere. With
``GARE_QUIET=1`` in the environment there are no notes and no progress; warnings remain.
"""

from __future__ import annotations

import os
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
NOTEBOOK_SECONDS = 0.2
PLAIN_WIDTH = 160
QUIET = "GARE_QUIET"


class _PlainConsole(Console):
    """A console that never interprets data as markup or control codes."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def _console(stream: Any) -> Console:
    """Make a console; a kernel's streams claim to be terminals, but count as plain text here."""
    notebook = _kernel() is not None
    terminal = stream.isatty() and not notebook
    return _PlainConsole(
        file=stream,
        width=None if terminal else PLAIN_WIDTH,
        highlight=False,
        emoji=False,
        soft_wrap=not terminal,
        force_terminal=False if notebook else None,
        force_jupyter=False,
    )


def output() -> Console:
    """Return the console for results (standard output)."""
    return _console(sys.stdout)


def notes() -> Console:
    """Return the console for progress and remarks (standard error)."""
    return _console(sys.stderr)


def say(text: str) -> None:
    """Print one plain line of the result."""
    output().print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print one plain line about progress, unless ``GARE_QUIET`` is set."""
    if not is_quiet():
        notes().print(escape(text))


def is_quiet() -> bool:
    """Return whether ``GARE_QUIET`` in the environment turns off notes and progress."""
    return os.environ.get(QUIET, "") not in ("", "0")


def warn(text: str) -> None:
    """Print a warning without stopping."""
    notes().print(f"[yellow]warning:[/yellow] {escape(text)}")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a result table; cells are plain text, numbers right-aligned."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    rows = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(f"{cell:.2f}" if isinstance(cell, float) else str(cell)) for cell in row))
    output().print(table)


def _kernel() -> Any:
    """Return the kernel of this notebook process; None elsewhere, as for IPython on a terminal."""
    if "ipykernel" not in sys.modules or "IPython" not in sys.modules:
        return None
    return getattr(sys.modules["IPython"].get_ipython(), "kernel", None)


def _notebook_line() -> Any:
    """Open a line of the running notebook cell, whose ``update`` replaces it; None outside a notebook."""
    if _kernel() is None:
        return None
    from IPython.display import display

    return display({"text/plain": ""}, raw=True, display_id=True)


class Meter:
    """Progress of one piece of work: a bar on a terminal, a changing line in a notebook, else occasional lines."""

    def __init__(
        self,
        title: str,
        total: int | None,
        progress: Progress | None,
        *,
        start: int = 0,
        timed: bool = True,
        line: Any = None,
    ) -> None:
        self._title, self.total, self._progress, self._timed, self._line = title, total, progress, timed, line
        self._task = progress.add_task(printable(title), total=total, completed=start, extra="") if progress else None
        self._started = self._last = time.monotonic()
        self._start = self.done = start

    def update(self, done: int, extra: str = "") -> None:
        """Set the amount done, with a short remark next to it."""
        self.done = done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=self.total, extra=printable(extra))
            return
        now = time.monotonic()
        # Lines become less frequent over time, so that a log of days stays readable.
        least = max(PLAIN_LINE_SECONDS, (now - self._started) / 100) if self._line is None else NOTEBOOK_SECONDS
        if now - self._last >= least or done == self.total:
            self._last = now
            of = f"/{self.total}" if self.total is not None else ""
            text = f"{self._title}: {done}{of}{self._rate(done, now)} {extra}".rstrip()
            if self._line is None:
                note(text)
            else:
                self._line.update({"text/plain": printable(text)}, raw=True)

    def count(self, done: int, total: int) -> None:
        """Set the amount done, and the total if it only becomes known now."""
        self.total = total
        self.update(done)

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

    ``start``: what was done before, which does not count for the rate; not ``timed``: no rate and no time left, because
    its remarks show them.
    """
    console = notes()
    if is_quiet() or not console.is_terminal:
        line = None if is_quiet() else _notebook_line()
        yield Meter(title, total, None, start=start, timed=timed, line=line)
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
