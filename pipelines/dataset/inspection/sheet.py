"""A contact sheet of prepared videos: stored frames, their times and the caption."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa

from gare.common.dataset_file import stored_picture
from gare.common.errors import InputError
from gare.common.sheet import Cell, Row, write_sheet
from pipelines.dataset.inspection.contents import Contents

SHOWN_FRAMES = 12


def draw_sheet(contents: Contents, path: Path, *, videos: int, seed: int, split: str | None = None) -> int:
    """Write a PNG with up to ``videos`` decoded videos drawn by ``seed``, in the folder's order; returns their number.

    Of more than 12 stored frames, 12 are shown, evenly spread. Raises InputError when there is no decoded video (in
    ``split``), when a drawn one is damaged, or when the file cannot be written.
    """
    places = [
        (name, row)
        for name, table in contents.tables.items()
        for row, there in enumerate(table["split"].to_pylist())
        if split is None or there == split
    ]
    if not places:
        raise InputError(
            f"{contents.folder} has no decoded video{f' in the split {split!r}' if split else ''} to draw."
        )
    drawn = sorted(random.Random(seed).sample(range(len(places)), min(videos, len(places))))  # noqa: S311
    rows = [_row(contents.tables[name].slice(row, 1), contents.folder) for name, row in (places[i] for i in drawn)]
    title = f"{contents.folder.name}{f', {split}' if split else ''}: {len(rows)} of {len(places)} videos"
    write_sheet(path, title, rows, cell_inches=1.15, row_inches=1.5)
    return len(rows)


def _row(video: pa.Table, folder: Path) -> Row:
    values = video.select(["video_id", "split", "captions", "frame_codec", "height", "width", "timestamps_s"])
    one = values.to_pylist()[0]
    stored = video["frames"][0].values
    try:
        cells = [
            Cell(
                [stored_picture(stored[i].as_buffer(), one["frame_codec"], one["height"], one["width"])],
                f"{one['timestamps_s'][i]:.2f} s",
            )
            for i in np.linspace(0, len(stored) - 1, min(len(stored), SHOWN_FRAMES)).astype(int).tolist()
        ]
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"The frames of {one['video_id']!r} in {folder} are damaged: {error}.") from None
    captions = one["captions"]
    more = f" (and {len(captions) - 1} more)" if len(captions) > 1 else ""
    text = f"“{captions[0]}”{more}" if captions else "no caption"
    return Row(f"{one['video_id']} ({one['split']}): {text}", cells)
