"""A folder of videos without captions: they can be prepared, indexed and searched."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from gare.common.errors import InputError
from pipelines.reading import files_below
from pipelines.sources.grouping import Row, distinct_ids, group, without_suffix
from pipelines.sources.options import Made, SourceOptions

GALLERY: Final = "gallery"
"""The split of videos that have no captions and that nobody put into another one."""

VIDEO_SUFFIXES: Final = frozenset(
    {
        "3g2", "3gp", "asf", "avi", "f4v", "flv", "ivf", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4", "mpe", "mpeg",
        "mpg", "mts", "mxf", "nut", "ogv", "rm", "rmvb", "ts", "vob", "webm", "wmv",
    }
)  # fmt: skip
"""Suffixes of video files, in lower case. Not gif, which is a picture as often."""


def from_folder(folder: Path, options: SourceOptions, suffixes: Collection[str] = VIDEO_SUFFIXES) -> Made:
    """Make a manifest of every video file below ``folder``, by path, in any case of its suffix, without captions.

    A video's id is its path below the folder without suffix; where two files share that, the path. Hidden files are
    left out, and symbolic links followed. The split is ``gallery`` unless the options say another. Raises InputError
    when there is no such file, and for a folder that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    unreadable: list[str] = []
    root = os.path.abspath(folder)  # noqa: PTH100 - symlinks stay
    found = [
        os.path.relpath(path, root)
        for name, path in files_below(root, unreadable)
        if not name.startswith(".") and name.rpartition(".")[2].lower() in suffixes and "." in name
    ]
    if unreadable:
        raise InputError(f"Cannot read the folder {unreadable[0]}.")
    if not found:
        raise InputError(f"{folder} holds no video file; files count that end in {', '.join(sorted(suffixes))}.")
    files = sorted(Path(file).as_posix() for file in found)
    ids = distinct_ids(files, (without_suffix,), folder)
    rows = (Row(file, {"video_id": name, "uri": file}) for name, file in zip(ids, files, strict=True))
    split = GALLERY if options.split is None and options.carve is None else options.split
    return group(folder, rows, replace(options, split=split, allow_uncaptioned=True), root=Path(root))
