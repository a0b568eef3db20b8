"""Small datasets as ``gare prepare`` leaves them, of made-up rows: no video is decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from gare.common.files import write_json
from gare.common.storage import Folder
from gare.config.prepare import PrepareConfig
from gare.schema import MANIFEST
from pipelines.dataset.ledger import dataset_manifest, write_ledger
from pipelines.dataset.opening import open_output
from pipelines.dataset.shard_rows import ShardWriter
from pipelines.dataset.tools.dataset import open_dataset

SIDE = 8
RECIPE = PrepareConfig(max_frames=3, short_side=SIDE, crop=SIDE, unit_videos=3, shard_bytes=1000)


def made_row(video_id, split="train", *, frames=2, captions=("a cat",), attributes=None, fps=None):
    """A SHARD row; its frames depend on its id."""
    random = np.random.default_rng(list(video_id.encode()))
    return {
        "video_id": video_id, "split": split, "captions": list(captions), "attributes": attributes,
        "frames": [random.bytes(SIDE * SIDE * 3) for _ in range(frames)], "frame_codec": "raw",
        "height": SIDE, "width": SIDE, "timestamps_s": [0.1 * n for n in range(frames)],
        "uri": f"/videos/{video_id}.mp4", "source_codec": "h264", "source_width": 64, "source_height": 48,
        "source_fps": fps, "source_duration_s": None, "source_bytes": 1000, "source_sha256": "0" * 64,
    }  # fmt: skip


def make_dataset(folder: Path, rows, recipe: PrepareConfig = RECIPE, *, failed=(), notes=None) -> Path:
    """A finished folder. ``failed``: ids of videos that are in the manifest only; ``notes``: of videos, by id."""
    lost = [{"video_id": name, "uri": "/none", "split": "train", "captions": []} for name in failed]
    manifest = pa.Table.from_pylist(
        [{name: row.get(name) for name in MANIFEST.names} for row in [*rows, *lost]], MANIFEST
    )
    output = open_output(folder, manifest, recipe)
    stored = {row["video_id"]: row for row in rows}
    for unit in range(output.units()):
        ledger = []
        with ShardWriter(output, unit) as writer:
            for given in output.rows(unit):
                row = stored.get(given["video_id"])
                entry = {name: given[name] for name in ("video_id", "uri", "split")}
                entry |= {"notes": (notes or {}).get(given["video_id"], []), "attempts": 1, "decode_s": 0.5}
                if row is None:
                    entry |= {"status": "failed", "reason": "missing", "frames": 0}
                else:
                    entry |= {"status": "ok", "frames": len(row["frames"]), "shard": writer.add(row)}
                ledger.append(entry)
        write_ledger(output, unit, ledger, writer.finished)
    write_json(folder / "dataset.json", dataset_manifest(output))
    return folder


def stored_rows(folder: Path) -> list[dict]:
    """All rows of a dataset's shards, in order."""
    dataset = open_dataset(Folder.at(folder))
    return [row for shard in dataset.shards for row in dataset.table(shard).to_pylist()]
