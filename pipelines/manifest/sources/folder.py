"""Make a manifest of a folder of video files, and optionally cut them into clips."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from gare.common.console import meter
from gare.common.errors import InputError
from gare.config.prepare import PrepareConfig
from pipelines.manifest.files import UNREADABLE, as_text, files_below
from pipelines.manifest.sources.options import Made, SourceOptions
from pipelines.manifest.sources.tables import SOURCE, Row, clip_id, distinct_ids, group, without_suffix

if TYPE_CHECKING:
    from pipelines.decode.isolated.decoder import Decoder

MOST_PROCESSES: Final = 8

_MEASURED: Final = PrepareConfig(max_frames=1, policy="uniform", short_side=8, crop=8, resize="swscale")
"""The cheapest possible decoding; it reports the duration by the same clock that cuts clips."""


def durations(files: Sequence[str]) -> Iterator[float | str]:
    """Yield each file's duration in seconds as decoded, or the reason why it cannot be measured.

    Files are opened in other processes, with the limits and the protection of decoding.
    """
    from pipelines.decode import DecodeError  # these two load PyAV
    from pipelines.decode.isolated.decoder import Decoder

    count = min(len(files), MOST_PROCESSES, os.cpu_count() or 1)
    with ExitStack() as stack:
        idle: SimpleQueue[Decoder] = SimpleQueue()
        for _ in range(count):
            idle.put(stack.enter_context(Decoder()))
        pool = stack.enter_context(ThreadPoolExecutor(count))
        bar = stack.enter_context(meter("Measuring files", len(files)))

        def measure(file: str) -> float | str:
            decoder = idle.get()
            try:
                duration = decoder.decode(file, recipe=_MEASURED).video.duration_s
            except DecodeError as error:
                return f"{error.kind}: {error.message}"
            finally:
                idle.put(decoder)
            return duration or "its frames have no times"

        futures = [pool.submit(measure, file) for file in files]
        try:
            for done, future in enumerate(futures, 1):
                result = future.result()
                bar.update(done)
                yield result
        finally:
            for future in futures:
                future.cancel()


SHORTEST_STEP_S: Final = 0.1


@dataclass(frozen=True)
class Segments:
    """Clips of ``seconds``, each beginning ``seconds - overlap`` after the previous one."""

    seconds: float
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and 0 <= self.overlap < self.seconds):
            raise InputError("--segment needs a number of seconds, and --overlap one from 0 to less than that.")
        if self.step < SHORTEST_STEP_S:
            raise InputError(f"Clips begin at least {SHORTEST_STEP_S} s apart; give more --segment or less --overlap.")

    @property
    def step(self) -> float:
        """Seconds from the beginning of one clip to the beginning of the next."""
        return self.seconds - self.overlap

    def cut(self, duration_s: float) -> list[tuple[float, float | None]]:
        """Return start and end of each clip of a file; the last clip runs to the end of the file (None).

        If the last clip would add less than half a step, the clip before it is extended instead.
        """
        more = (duration_s - self.seconds) / self.step
        count = 1 + max(0, math.floor(more + 0.5))
        starts = [round(k * self.step, 6) for k in range(count)]
        return [(start, round(start + self.seconds, 6)) for start in starts[:-1]] + [(starts[-1], None)]


GALLERY: Final = "gallery"
"""The split of videos without captions that you assigned to no other split."""

VIDEO_SUFFIXES: Final = frozenset(
    {
        "3g2", "3gp", "asf", "avi", "f4v", "flv", "ivf", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4", "mpe", "mpeg",
        "mpg", "mts", "mxf", "nut", "ogv", "rm", "rmvb", "ts", "vob", "webm", "wmv",
    }
)  # fmt: skip
"""Suffixes of video files, in lower case. ``gif`` is not one, since it is as often a picture."""


def from_folder(
    folder: Path,
    options: SourceOptions,
    suffixes: Collection[str] = VIDEO_SUFFIXES,
    segments: Segments | None = None,
) -> Made:
    """Make a manifest of every video file below ``folder``, sorted by path, without captions.

    A video's id is its path below the folder without suffix, or the whole path if two files share that. The case of
    suffixes does not matter. Hidden files and folders are skipped, and symbolic links are followed. Files that cannot
    be named in a manifest and folders that cannot be read are reported in ``left_out``. The split is ``gallery``
    unless the options give another.

    ``segments``: make a row of each clip of a file, with the file's id as attribute ``source``; a file that cannot be
    measured stays whole. Raises InputError if there is no video file or the folder cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    root = os.path.abspath(folder)  # noqa: PTH100 - symlinks stay
    files, left_out = _video_files(root, suffixes)
    if left_out.get(as_text(root)) == UNREADABLE:
        raise InputError(f"Cannot read the folder {folder}.")
    if not files:
        first = "".join(f" {path} {why}." for path, why in islice(left_out.items(), 1))
        ends = ", ".join(sorted(suffixes))
        raise InputError(f"{as_text(root)} holds no video file; files count that end in {ends}.{first}")
    ids = distinct_ids(files, (without_suffix,))
    whole: dict[str, str] = {}
    rows = _whole_rows(ids, files) if segments is None else _clips(ids, files, root, segments, whole)
    split = GALLERY if options.split is None and options.carve is None else options.split
    made = group(folder, rows, replace(options, split=split, allow_uncaptioned=True), root=Path(root))
    if len(set(made.table["uri"].to_pylist())) != len(files):
        raise RuntimeError(f"{folder} holds {len(files)} video files, and its manifest does not.")
    return replace(made, left_out=left_out, whole=whole)


def _video_files(root: str, suffixes: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Return the sorted paths of the video files relative to ``root``, and the possible videos that were left out."""

    def counts(name: str) -> bool:
        return "." in name and name.rpartition(".")[2].lower() in suffixes

    left_out: dict[str, str] = {}
    files = [os.path.relpath(path, root) for name, path in files_below(root, left_out) if counts(name)]
    return sorted(files), {path: why for path, why in left_out.items() if why == UNREADABLE or counts(path)}


def _whole_rows(ids: Sequence[str], files: Sequence[str]) -> Iterator[Row]:
    for name, file in zip(ids, files, strict=True):
        yield Row(file, {"video_id": name, "uri": file})


def _clips(
    ids: Sequence[str], files: Sequence[str], root: str, segments: Segments, whole: dict[str, str]
) -> Iterator[Row]:
    measured = durations([os.path.join(root, file) for file in files])  # noqa: PTH118
    for row, duration in zip(_whole_rows(ids, files), measured, strict=True):
        cells = {**row.cells, "attributes": {SOURCE: row.cells["video_id"]}}
        if isinstance(duration, str):
            whole[row.place] = duration
            yield Row(row.place, cells)
            continue
        for start_s, end_s in segments.cut(duration):
            clip = {"video_id": clip_id(cells["video_id"], start_s, end_s), "start_s": start_s, "end_s": end_s}
            yield Row(row.place, {**cells, **clip})
