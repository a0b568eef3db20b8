"""The data job against the bare sampler in as many processes, and a manifest of a million rows.

    python benchmarks/preparing.py [--videos 1008] [--workers N] [--rows 10000 100000 1000000]

First: every video of a corpus (made-up clips of 10 to 30 s, each under many ids) is decoded once by plain processes
that throw the frames away, each taking every N-th video, and once by the Ray job, which also isolates the decoder,
digests the sources and writes shards and ledger. Both are timed from the first to the last video, start-up aside, in
turns, and at the niceness that Ray gives its workers. The job is heard of by units only, so its start is the end of the
first unit less what that unit's decoding took. The ratio says how much of the bare rate the job delivers, and the
figures beside it where the rest goes: what the job's processes spend on a video's decoding and digest, and on
everything else.

Second (--rows): the job with a decoder that gives one small picture without looking, over manifests of more and more
rows: seconds per row, and the driver's peak memory beyond what it held at the start. Takes half an hour for a million.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common.process import OwnMemory, own_process
from decoders.clips import short_clips
from scale.decoding import made_manifest

from gare.config import PrepareConfig
from gare.schema import MANIFEST
from pipelines.output import Output

CLIPS = 12
TINY = 8  # the side of common.grey's picture
RAY_NICENESS = 15


def bare(manifest: Path, start: int, step: int) -> None:
    """In a process of its own: decode every ``step``-th video; prints when each was finished."""
    from pipelines.decode import decode_video

    os.nice(RAY_NICENESS)
    uris = pq.read_table(manifest)["uri"].to_pylist()[start::step]
    recipe = PrepareConfig()
    finished = []
    for uri in uris:
        decode_video(Path(uri), recipe=recipe)
        finished.append(time.time())
    print(json.dumps(finished))


def bare_rate(manifest: Path, workers: int) -> float:
    """Videos per second of plain processes."""
    command = [sys.executable, __file__, "--bare", str(manifest)]
    processes = [
        subprocess.Popen([*command, str(start), str(workers)], stdout=subprocess.PIPE, text=True)
        for start in range(workers)
    ]
    finished = sorted(moment for process in processes for moment in json.loads(process.communicate()[0]))
    return (len(finished) - 1) / (finished[-1] - finished[0])


def job(manifest: Path, out: Path, workers: int) -> None:
    """In a process of its own: the Ray job; prints its rate and what its processes' time went to."""
    import ray

    from pipelines import shards

    seen: list[tuple[float, int]] = []
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    shards.prepare(
        manifest, out, PrepareConfig(), workers=workers, on_progress=lambda p: seen.append((time.time(), p.done))
    )
    ray.shutdown()
    (first, begun), (last, done) = seen[1], seen[-1]
    seconds = pa.concat_tables([pq.read_table(path) for path in (out / "ledger").iterdir()])["decode_s"].to_numpy()
    rate = done / (last - first + begun * float(seconds.mean()))
    print(
        json.dumps({"rate": rate, "decode_s": float(seconds.mean()), "other_s": workers / rate - float(seconds.mean())})
    )


def compare(options: argparse.Namespace, folder: Path) -> None:
    """The first part."""
    clips = short_clips(options.folder or folder, CLIPS)
    rows = [
        {"video_id": f"{n:05d}", "uri": str(clips[n % CLIPS].absolute()), "split": "train", "captions": ["a scene"]}
        for n in range(options.videos)
    ]
    manifest = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows, MANIFEST), manifest)
    print(f"{options.videos} videos, {options.workers} processes, {options.turns} turns")
    ratios = []
    for turn in range(options.turns):
        plain = bare_rate(manifest, options.workers)
        made = json.loads(
            own_process(__file__, "--job", manifest, folder / f"out-{turn}", options.workers).splitlines()[-1]
        )
        ratios.append(made["rate"] / plain)
        print(
            f"  bare sampler {plain:6.2f} videos/s   job {made['rate']:6.2f} videos/s   {ratios[-1]:.1%}   "
            f"bare decoding {options.workers / plain * 1e3:.1f} ms a video, the job's {made['decode_s'] * 1e3:.1f} ms "
            f"and {made['other_s'] * 1e3:.1f} ms beside it"
        )
    print(
        f"  the job delivers {statistics.median(ratios):.1%} of the bare sampler ({min(ratios):.1%}-{max(ratios):.1%})"
    )


class NoDecoder:
    """Gives one small grey picture for every address, at once."""

    def decode_clips(self, uri: str, *, clips: Sequence[object], **_: object) -> Iterator[object]:
        """Decode nothing."""
        from common.grey import grey_video

        for _clip in clips:
            yield grey_video(uri)


def without_decoding(output: Output, unit: int, again: object = None) -> object:
    """What a task does with a unit, without decoding."""
    from pipelines.work import process_unit

    return process_unit(output, unit, NoDecoder(), again=again)  # type: ignore[arg-type]


def many_rows(rows: int, workers: int) -> None:
    """In a process of its own: the job over a made-up manifest; prints seconds and the driver's memory."""
    import ray

    from pipelines import shards

    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.parquet"
        made_manifest(manifest, rows)
        ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        recipe = PrepareConfig(short_side=TINY, crop=TINY)
        with shards.open_job(manifest, Path(folder) / "warm", recipe):
            pass
        moments = [time.perf_counter()]
        with OwnMemory() as memory, shards.open_job(manifest, Path(folder) / "out", recipe) as opened:
            moments.append(time.perf_counter())
            report = shards.run_job(opened, workers=workers, work=without_decoding)
            moments.append(time.perf_counter())
        with shards.open_job(manifest, Path(folder) / "out", recipe) as opened:
            moments.append(time.perf_counter())
        ray.shutdown()
        assert report.totals["ok"] == rows
        assert not opened.todo
        opening, running, again = np.diff(moments).tolist()
        print(json.dumps({"opening": opening, "running": running, "again": again, "memory": memory.added()}))


def grow(options: argparse.Namespace) -> None:
    """The second part."""
    print("\nA decoder that gives one small picture; microseconds per row, and the driver's memory")
    print(f"  {'rows':>10s}{'opening':>10s}{'job':>10s}{'opening again':>15s}{'memory':>12s}")
    for rows in options.rows:
        took = json.loads(own_process(__file__, "--many", rows, options.workers).splitlines()[-1])
        figures = [took[name] / rows * 1e6 for name in ("opening", "running", "again")]
        print(f"  {rows:10d}{figures[0]:10.0f}{figures[1]:10.0f}{figures[2]:15.0f}{took['memory']:9.0f} MB")


def main(arguments: Sequence[str]) -> None:
    """Run what is asked for."""
    if arguments[:1] == ["--bare"]:
        return bare(Path(arguments[1]), int(arguments[2]), int(arguments[3]))
    if arguments[:1] == ["--job"]:
        return job(Path(arguments[1]), Path(arguments[2]), int(arguments[3]))
    if arguments[:1] == ["--many"]:
        return many_rows(int(arguments[1]), int(arguments[2]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--videos", type=int, default=1008, help="videos of the comparison; 0 for none")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000], help="lengths of the made-up manifests")
    parser.add_argument("--folder", type=Path, help="keep the made clips here, and take those that are there")
    options = parser.parse_args(arguments)
    if options.videos:
        with tempfile.TemporaryDirectory() as folder:
            compare(options, Path(folder))
    if options.rows:
        grow(options)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
