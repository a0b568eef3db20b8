"""A small folder as ``gare prepare`` leaves it, made without Ray from real video files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from gare.common.files import write_json
from gare.config.prepare import PrepareConfig
from gare.schema import MANIFEST
from pipelines.dataset.ledger import dataset_manifest
from pipelines.dataset.opening import open_output
from pipelines.prepare.process_unit import process_unit
from tests.videos import make_video

RECIPE = PrepareConfig(max_frames=3, short_side=32, crop=32, unit_videos=2)


def make_sources(folder: Path) -> Path:
    """Three short videos, ``a``, ``b`` and ``c``, and ``bad``, which is none."""
    folder.mkdir()
    for number, name in enumerate("abc"):
        make_video(folder / f"{name}.mp4", frames=40 + 10 * number, gop=10)
    (folder / "bad.mp4").write_text("no video")
    return folder


def prepare(folder: Path, videos: Path, recipe: PrepareConfig = RECIPE) -> Path:
    """Prepare the sources: ``a`` (from its first second on) and ``bad`` in one unit, ``b`` and ``c`` in another."""
    rows = [
        {"video_id": "a", "split": "train", "captions": ["a thing", "$1 and $2"], "start_s": 1.0, "end_s": None},
        {"video_id": "bad", "split": "train", "captions": ["not there"]},
        {"video_id": "b", "split": "test", "captions": [], "attributes": [("kind", "x")]},
        {"video_id": "c", "split": "train", "captions": ["c"]},
    ]
    table = pa.Table.from_pylist([row | {"uri": str(videos / f"{row['video_id']}.mp4")} for row in rows], MANIFEST)
    output = open_output(folder, table, recipe)
    for unit in range(output.units()):
        process_unit(output, unit)
    write_json(folder / "dataset.json", dataset_manifest(output))
    return folder
