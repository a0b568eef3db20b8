"""Run a decode task in the simulation: everything is real except the decoding, which sleeps.

Imported by every worker, so it imports nothing heavy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from gare.common.files import write_json
from gare.schema import MANIFEST
from scale.spans import Span

VIDEO_S = 0.093
"""Seconds of one core per video in the job: the mean of benchmarks/preparing.py on an idle machine."""

SPREAD = (0.64, 0.72, 0.79, 0.83, 0.85, 1.01, 1.05, 1.08, 1.14, 1.26, 1.31, 1.32)
"""Decoding times of its twelve synthetic clips of 10 to 30 s, relative to their mean."""

SPANS = "spans"


class Sleeper:
    """A decoder that takes as long as a real one and returns one small picture."""

    def __init__(self, video_s: float) -> None:
        self.video_s = video_s

    def decode_clips(self, uri: str, *, clips: Sequence[object], **_: object) -> Iterator[object]:
        """Sleep as long as decoding one of the clips takes; the address determines which one."""
        from common.grey import grey_video

        for _clip in clips:
            time.sleep(self.video_s * SPREAD[crc32(uri.encode()) % len(SPREAD)])
            yield grey_video(uri)


def _unit(output: Any, unit: int, again: object = None, *, video_s: float) -> object:
    """Process a unit without decoding, and note its time and node."""
    import ray

    from pipelines.prepare.process_unit import process_unit

    start = time.time()
    counts = process_unit(output, unit, Sleeper(video_s), again=again)  # type: ignore[arg-type]
    span = {"start": start, "end": time.time(), "node": ray.get_runtime_context().get_node_id()}
    write_json(output.folder / SPANS / f"{unit}.json", span)
    return counts


def sleeping(video_s: float) -> Any:
    """Return the ``work`` of pipelines.prepare.job.run_job for videos that take ``video_s`` seconds on average."""
    return partial(_unit, video_s=video_s)


def spans_of(folder: Path) -> list[Span]:
    """Return the time and node of each unit."""
    return [Span(**json.loads(path.read_text(encoding="utf-8"))) for path in (folder / SPANS).iterdir()]


def made_manifest(path: Path, rows: int) -> Path:
    """Write a manifest of so many videos that do not exist."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, MANIFEST) as writer:
        for start in range(0, rows, 10_000):
            made = [
                {"video_id": f"{n:08d}", "uri": f"/{n}.mp4", "split": "train", "captions": ["what is in it"] * 5}
                for n in range(start, min(rows, start + 10_000))
            ]
            writer.write_table(pa.Table.from_pylist(made, MANIFEST))
    return path


def warm_up(slots: int, seconds: float = 120.0) -> None:
    """Start one worker process per slot and import what a task needs; return once all have run at the same time."""
    import ray

    @ray.remote(num_cpus=1)
    def imported(until: float) -> None:
        import common.grey
        import ray.data

        import pipelines.prepare.job
        import pipelines.prepare.process_unit

        assert all((common.grey, ray.data, pipelines.prepare.job, pipelines.prepare.process_unit))
        time.sleep(max(0.0, until - time.time()))

    def wait(pause: float) -> Iterable[None]:
        return ray.get([imported.remote(time.time() + pause) for _ in range(slots)], timeout=seconds)

    wait(0.5 * slots)
    wait(1.0)
