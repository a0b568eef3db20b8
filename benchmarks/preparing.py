"""Compare the data job with the bare sampler in as many processes; small jobs, clips of one film, a million rows.

    python benchmarks/preparing.py [--videos 1008] [--workers N] [--small 1 100] [--film 20] [--rows 10000 1000000]

First: every video of a corpus (synthetic clips of 10 to 30 s, each under many ids) is decoded once by plain processes
that discard the frames, each taking every N-th video, and once by the Ray job, which also isolates the decoder, digests
the sources and writes shards and ledger. Both are timed from the first to the last video, without start-up, in turns,
and at the niceness that Ray gives its workers. The job only reports units, so its start is the end of the first unit
less that unit's decoding time. The ratio says how much of the bare rate the job delivers, and the figures next to it
show where the rest goes: what the job's processes spend on a video's decoding and digest, and on everything else.

Second (--small): the command, from its start to its end, for a few short videos, with --local and with --ray.

Third (--film): adjacent clips of ten seconds of one film of so many minutes: the cost of decoding them in the job,
compared with reading the film once, its digest and every frame in order by PyAV on one thread, in the same process.

Fourth (--rows): the job with a decoder that returns one small picture without decoding, over manifests of more and more
rows: seconds per row, and the driver's peak memory beyond that at the start. Takes half an hour for a million.
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
from decoders.clips import GOP, long_clip, short_clips
from scale.decoding import made_manifest

from gare.config import PrepareConfig
from gare.schema import MANIFEST
from pipelines.dataset.layout import Output

CLIPS = 12
TINY = 8  # the side of common.grey's picture
RAY_NICENESS = 15


def bare(manifest: Path, start: int, step: int) -> None:
    """Decode every ``step``-th video in this process and print when each was finished."""
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
    """Return the videos per second of plain processes."""
    command = [sys.executable, __file__, "--bare", str(manifest)]
    processes = [
        subprocess.Popen([*command, str(start), str(workers)], stdout=subprocess.PIPE, text=True)
        for start in range(workers)
    ]
    finished = sorted(moment for process in processes for moment in json.loads(process.communicate()[0]))
    return (len(finished) - 1) / (finished[-1] - finished[0])


def job(manifest: Path, out: Path, workers: int) -> None:
    """Run the Ray job in this process; print its rate and how its processes spent their time."""
    import ray

    from pipelines.prepare import job as shards

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
    """Run the first part."""
    clips = short_clips(options.folder or folder, CLIPS)
    manifest = written(folder / "manifest.parquet", [(clips[n % CLIPS], None, None) for n in range(options.videos)])
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
    """A decoder that returns one small grey picture for every address, at once."""

    def decode_clips(self, uri: str, *, clips: Sequence[object], **_: object) -> Iterator[object]:
        """Decode nothing."""
        from common.grey import grey_video

        for _clip in clips:
            yield grey_video(uri)


def without_decoding(output: Output, unit: int, again: object = None) -> object:
    """Process a unit like a task, without decoding."""
    from pipelines.prepare.process_unit import process_unit

    return process_unit(output, unit, NoDecoder(), again=again)  # type: ignore[arg-type]


def many_rows(rows: int, workers: int) -> None:
    """Run the job over a synthetic manifest in this process; print seconds and the driver's memory."""
    import ray

    from pipelines.prepare import job as shards

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


def small(options: argparse.Namespace, folder: Path) -> None:
    """Run the second part."""
    clips = short_clips(options.folder or folder, CLIPS)
    print("\nThe whole command, seconds (median of the turns)")
    print(f"  {'videos':>10s}{'--local':>10s}{'--ray':>10s}")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for count in options.small:
        manifest = written(folder / f"small-{count}.parquet", [(clips[n % CLIPS], None, None) for n in range(count)])
        took: dict[str, list[float]] = {"--local": [], "--ray": []}
        for turn in range(options.turns):
            for name, seconds in took.items():
                out = folder / f"small-{count}-{turn}{name}"
                command = [sys.executable, "-m", "gare", "prepare", str(manifest), "--out", str(out)]
                workers = ["--set", f"runtime.decode_workers={options.workers}"]
                started = time.perf_counter()
                subprocess.run([*command, *workers, name], check=True, capture_output=True, env=environment)
                seconds.append(time.perf_counter() - started)
        print(f"  {count:10d}" + "".join(f"{statistics.median(seconds):10.2f}" for seconds in took.values()))


def film(minutes: float, folder: Path, keep: Path | None) -> None:
    """Run the third part."""
    path, count = long_clip(keep or folder, minutes, GOP), round(6 * minutes)
    manifest = written(folder / "film.parquet", [(path, 10.0 * n, 10.0 * (n + 1)) for n in range(count)])
    once, clips = json.loads(own_process(__file__, "--once", path, manifest, folder / "film").splitlines()[-1])
    size = path.stat().st_size / 2**20
    print(f"\nA film of {minutes:g} minutes, {size:.0f} MiB: its digest and all frames in order take {once:.2f} s;")
    print(f"  its {count} clips of 10 s take {clips:.2f} s in the job, {clips / once:.2f} times as long")


def once_and_in_clips(path: Path, manifest: Path, out: Path) -> None:
    """Print the seconds of one pass over a film, and of the clips of a manifest, in this process."""
    import av

    from gare.common.files import file_digest
    from pipelines.dataset.ledger import read_ledger
    from pipelines.dataset.opening import open_output
    from pipelines.manifest.load import stream_manifest
    from pipelines.prepare.process_unit import process_unit

    output = open_output(out, stream_manifest(manifest), PrepareConfig())
    units = range(output.units())
    for unit in units:
        process_unit(output, unit)
    rows = [row for unit in units for row in (read_ledger(output, unit) or ([], []))[0]]
    assert all(row["status"] == "ok" for row in rows)
    started = time.perf_counter()
    file_digest(path)
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        for _frame in container.decode(video=0):
            pass
    print(json.dumps([time.perf_counter() - started, sum(row["decode_s"] for row in rows)]))


def written(path: Path, videos: Sequence[tuple[Path, float | None, float | None]]) -> Path:
    """Write a manifest of videos and their clips."""
    rows = [
        {"video_id": f"{n:05d}", "uri": str(uri.absolute()), "split": "train", "captions": ["a scene"]}
        | {"start_s": start, "end_s": end}
        for n, (uri, start, end) in enumerate(videos)
    ]
    pq.write_table(pa.Table.from_pylist(rows, MANIFEST), path)
    return path


def grow(options: argparse.Namespace) -> None:
    """Run the fourth part."""
    print("\nA decoder that gives one small picture; microseconds per row, and the driver's memory")
    print(f"  {'rows':>10s}{'opening':>10s}{'job':>10s}{'opening again':>15s}{'memory':>12s}")
    for rows in options.rows:
        took = json.loads(own_process(__file__, "--many", rows, options.workers).splitlines()[-1])
        figures = [took[name] / rows * 1e6 for name in ("opening", "running", "again")]
        print(f"  {rows:10d}{figures[0]:10.0f}{figures[1]:10.0f}{figures[2]:15.0f}{took['memory']:9.0f} MB")


def main(arguments: Sequence[str]) -> None:
    """Run the requested parts."""
    if arguments[:1] == ["--bare"]:
        return bare(Path(arguments[1]), int(arguments[2]), int(arguments[3]))
    if arguments[:1] == ["--job"]:
        return job(Path(arguments[1]), Path(arguments[2]), int(arguments[3]))
    if arguments[:1] == ["--once"]:
        return once_and_in_clips(*map(Path, arguments[1:]))
    if arguments[:1] == ["--many"]:
        return many_rows(int(arguments[1]), int(arguments[2]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--videos", type=int, default=1008, help="videos of the comparison; 0 for none")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000], help="lengths of the made-up manifests")
    parser.add_argument("--small", type=int, nargs="*", default=[1, 100], help="videos of the small jobs")
    parser.add_argument("--film", type=float, default=20.0, help="minutes of the film; 0 for none")
    parser.add_argument("--folder", type=Path, help="keep the made clips here, and take those that are there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.videos:
            compare(options, Path(folder))
        if options.small:
            small(options, Path(folder))
        if options.film:
            film(options.film, Path(folder), options.folder)
    if options.rows:
        grow(options)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
