"""Output for people: results on standard output, notes, warnings and progress on standard error.

Progress is a live bar on a terminal, one line that changes in place in a notebook, and a plain line now and then
elsewhere. With ``GARE_QUIET=1`` in the environment there are no notes and no progress; warnings stay.
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
    """A console on which text from data stays text."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def _console(stream: Any) -> Console:
    """A console; a kernel's streams call themselves terminals, and are plain text here."""
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
    """The console for results (standard output)."""
    return _console(sys.stdout)


def notes() -> Console:
    """The console for progress and remarks (standard error)."""
    return _console(sys.stderr)


def say(text: str) -> None:
    """Say one plain line of the result."""
    output().print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Say one plain line on the way, unless ``GARE_QUIET`` is set."""
    if not is_quiet():
        notes().print(escape(text))


def is_quiet() -> bool:
    """Tell whether notes and progress are switched off, by ``GARE_QUIET`` in the environment."""
    return os.environ.get(QUIET, "") not in ("", "0")


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


def _kernel() -> Any:
    """The notebook kernel that this process is; None where it is none, as IPython on a terminal."""
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
    """Progress of one piece of work: a bar on a terminal, a changing line in a notebook, else a line now and then."""

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
        """Set how much is done, with a short remark next to it."""
        self.done = done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=self.total, extra=printable(extra))
            return
        now = time.monotonic()
        # The longer it takes, the fewer the lines: a log of days stays readable.
        least = max(PLAIN_LINE_SECONDS, (now - self._started) / 100) if self._line is None else NOTEBOOK_SECONDS
        if now - self._last >= least or done == self.total:
            self._last = now
            of = f"/{self.total}" if self.total is not None else ""
            text = f"{self._title}: {done}{of}{self._rate(done, now)} {extra}".rstrip()
            if self._line is None:
                note(text)
            else:
                self._line.update({"text/plain": printable(text)}, raw=True)

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
