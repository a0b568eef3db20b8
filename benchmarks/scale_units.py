"""Measure the unit costs in benchmarks/scale/costs.py that no other benchmark measures.

    python benchmarks/scale_units.py [--units 500] [--folder CLIPS]

- bytes: what prepare stores of a synthetic clip of 10 to 30 s (320x240), raw and as JPEG, the size of its source, and
  how long one core reads its frames from a shard in memory;
- files: seconds and bytes per ledger row, ledger part and shard of a folder of many small ones, on this machine's disk:
  what gare prepare does before and after decoding (open, find the remaining work, write the dataset manifest), and what
  a training rank does when it starts (open the shards, list the videos, order an epoch);
- step: floating-point operations of a training step of the real recipe (configs/msrvtt.yaml), counted by torch on
  tensors without data, for several numbers of ranks with 128 videos each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from common.process import OwnMemory
from decoders.clips import short_clips
from scale.decoding import Sleeper, made_manifest
from scale.step_flops import RANKS, step_flops

from gare.config import PrepareConfig
from gare.config.tree import load_config
from gare.data.samples import epoch_batches
from gare.data.shards import ShardSet
from gare.schema import MANIFEST
from pipelines.dataset.ledger import dataset_manifest
from pipelines.dataset.opening import open_output
from pipelines.decode.isolated.decoder import Decoder
from pipelines.prepare.job import open_job
from pipelines.prepare.process_unit import process_unit

CLIPS, TINY, READS = 12, 8, 20
RECIPE = Path(__file__).parents[1] / "configs" / "msrvtt.yaml"


def stored_bytes(folder: Path, clips: list[Path]) -> None:
    """Measure the stored bytes of a video."""
    rows = [
        {"video_id": f"{n}", "uri": str(clip.absolute()), "split": "train", "captions": ["what is in it"] * 5}
        for n, clip in enumerate(clips)
    ]
    source = sum(clip.stat().st_size for clip in clips) / len(clips)
    print(f"source: {source / 1e3:.0f} KB a video")
    for storage in ("raw", "jpeg"):
        output = open_output(
            folder / storage, pa.Table.from_pylist(rows, MANIFEST), PrepareConfig(storage=storage, unit_videos=CLIPS)
        )
        with Decoder() as decoder:
            process_unit(output, 0, decoder)
        size = sum(path.stat().st_size for path in (folder / storage / "shards").iterdir())
        print(f"stored {storage}: {size / len(clips) / 1e3:.0f} KB a video")
        output.place.write_json("dataset.json", dataset_manifest(output))
        split = ShardSet(folder / storage).split("train")
        with timed(f"read {storage}, from memory", READS * len(split), "video"):
            for _ in range(READS):
                for index in range(len(split)):
                    split.frames(index, at_most=output.recipe.max_frames)


@contextmanager
def timed(says: str, count: int, of: str, *, memory: bool = False) -> Iterator[None]:
    """Print the block's time per one of ``count``."""
    with OwnMemory() as held:
        began, used = time.perf_counter(), time.process_time()
        yield
        taken, used = time.perf_counter() - began, time.process_time() - used
    more = f", {held.added() * 2**20 / count:.0f} bytes" if memory else ""
    print(f"{says}: {taken / count * 1e6:.1f} microseconds, {used / count * 1e6:.1f} of them CPU{more} per {of}")


def files(folder: Path, units: int) -> None:
    """Measure many files, without decoding, and without what a process pays once."""
    with redirect_stdout(StringIO()):
        _files(folder / "few", units // 10 + 1)
    _files(folder / "many", units)


def _files(folder: Path, units: int) -> None:
    folder.mkdir()
    recipe = PrepareConfig(short_side=TINY, crop=TINY)
    rows = units * recipe.unit_videos
    manifest = made_manifest(folder / "manifest.parquet", rows)
    out = folder / "out"
    with timed("open a new folder", rows, "row", memory=True), open_job(manifest, out, recipe) as opened:
        pass
    output = opened.output
    decoder: Any = Sleeper(0.0)
    with timed("write a unit without decoding", units, "unit"):
        for unit in range(units):
            process_unit(output, unit, decoder)
    ledger = sum(path.stat().st_size for path in (out / "ledger").iterdir())
    print(f"ledger: {ledger / rows:.0f} bytes a row; manifest: {(out / 'manifest.arrow').stat().st_size / rows:.0f}")
    with timed("open it again, all finished", rows, "row", memory=True), open_job(manifest, out, recipe):
        pass
    with timed("make the dataset manifest", units, "unit", memory=True):
        made = dataset_manifest(output)
    output.place.write_json("dataset.json", made)
    print(f"dataset manifest: {(out / 'dataset.json').stat().st_size / units:.0f} bytes a shard")
    with timed("open the shards", units, "shard", memory=True):
        shards = ShardSet(out)
    with timed("list the videos of a split", rows, "video", memory=True):
        split = shards.split("train")
    counts = [len(video.captions) for video in split.videos]
    with timed("order an epoch", rows, "video", memory=True):
        epoch_batches(counts, 128, "one_per_video", seed=0, epoch=0)


def steps() -> None:
    """Count the operations of a step."""
    print(f"{'ranks':>7s}{'batch':>8s}{'increments':>12s}{'TFLOP a rank':>14s}{'of them pairs':>15s}")
    for increments in ("dense", "factorised"):
        for ranks in RANKS:
            found = step_flops(load_config(RECIPE, [f"train.increments={increments}"]), ranks)
            pairs = (found.rank - found.encoders) / 1e12
            print(f"{ranks:7d}{128 * ranks:8d}{increments:>12s}{found.rank / 1e12:14.2f}{pairs:15.2f}")
    print(f"parameters {found.parameters}, trained {found.trained}")


def main(arguments: Sequence[str]) -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=int, default=500, help="work units of the made-up folder")
    parser.add_argument("--folder", type=Path, help="keep the made clips here, and take those that are there")
    options = parser.parse_args(arguments)
    parts: list[Callable[[Path], None]] = [
        lambda folder: stored_bytes(folder, short_clips(options.folder or folder, CLIPS)),
        lambda folder: files(folder, options.units),
        lambda _: steps(),
    ]
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            part(Path(folder))
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
