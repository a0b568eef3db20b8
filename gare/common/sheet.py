"""Draw contact sheets: a PNG of rows of pictures, with a title above each row and text below each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.common.files import atomic_file
from gare.common.redact import printable

Picture = NDArray[np.uint8]
PLAIN = "#bbbbbb"
CHARACTERS_PER_INCH = 13
TITLE_POINTS, LABEL_POINTS = 9, 7
MIN_INCHES = 6.0


@dataclass(frozen=True)
class Cell:
    """Pictures [H, W, 3] of one height, side by side, the text below them, and the frame around them."""

    pictures: Sequence[Picture]
    text: str
    colour: str = PLAIN
    line_width: float = 1.0


@dataclass(frozen=True)
class Row:
    """Cells from left to right, and the text above them."""

    text: str
    cells: Sequence[Cell]


def write_sheet(path: str | Path, title: str, rows: Sequence[Row], *, cell_inches: float, row_inches: float) -> None:
    """Write the PNG, whatever the file's suffix; rows may have different numbers of cells.

    Raises InputError if ``path`` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max((len(row.cells) for row in rows), default=1)
    width = max(MIN_INCHES, cell_inches * columns)
    figure = Figure(figsize=(width, row_inches * len(rows) + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(title, width), fontsize=11)
    for row, part in zip(rows, _parts(figure, len(rows)), strict=True):
        part.suptitle(_plain(row.text, width), fontsize=TITLE_POINTS, x=0.01, ha="left")
        for number, axis in enumerate(part.subplots(1, columns, squeeze=False)[0]):
            if number < len(row.cells):
                _draw(axis, row.cells[number], cell_inches)
            else:
                axis.set_axis_off()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _parts(figure: Any, count: int) -> list[Any]:
    return list(figure.subfigures(count, 1, squeeze=False)[:, 0]) if count else []


def _draw(axis: Any, cell: Cell, inches: float) -> None:
    axis.imshow(np.concatenate(list(cell.pictures), axis=1))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel(_plain(cell.text, inches * TITLE_POINTS / LABEL_POINTS), fontsize=LABEL_POINTS)
    for side in axis.spines.values():
        side.set(color=cell.colour, linewidth=cell.line_width)


def _plain(text: str, inches: float) -> str:
    """Prepare text for display: one line of ``inches``, no control characters, no formulas between dollar signs."""
    text, most = printable(" ".join(text.split())), int(inches * CHARACTERS_PER_INCH)
    return (text if len(text) <= most else text[: most - 4].rstrip() + " ...").replace("$", r"\$")
