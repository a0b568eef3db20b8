"""Make shards of synthetic videos: frames of noise, which no codec or cache can shrink."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from gare.common.files import digest_of, file_digest, write_json
from gare.schema import DATASET_FILE, SCHEMA_VERSION, SHARD, SHARD_FOLDER, stamped

WORDS = ("a", "red", "blue", "grey", "square", "circle", "moves", "turns", "left", "right", "up", "slowly", "fast")


def made_shards(
    folder: Path,
    videos: int,
    frames: int,
    side: int,
    *,
    shortest: int | None = None,
    captions: int = 1,
    dev: int = 0,
) -> Path:
    """Write a folder like gare prepare's: ``videos`` of the split train, frames of side x side pixels stored raw.

    ``shortest``: videos have from this many frames up to ``frames``; all have ``frames`` if None. ``captions``: per
    video. ``dev``: additional videos of the split dev.
    """
    random = np.random.default_rng(0)
    recipe = {"crop": side, "short_side": side, "max_frames": frames, "square_pixels": True}
    lengths = random.integers(shortest or frames, frames + 1, videos + dev)
    (folder / SHARD_FOLDER).mkdir(parents=True)
    path = folder / SHARD_FOLDER / "unit-000000-00.arrow"
    schema = stamped(SHARD, recipe_digest=digest_of(recipe), unit=0)
    with pa.ipc.new_file(path, schema) as writer:
        for number, length in enumerate(lengths):
            row = _row(number, int(length), side, captions, random) | {"split": "train" if number < videos else "dev"}
            writer.write_table(pa.Table.from_pylist([row], schema=schema))
    digest = file_digest(path)
    entry = {"file": path.name, "unit": 0, "rows": videos + dev, "bytes": path.stat().st_size, "sha256": digest}
    write_json(
        folder / DATASET_FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "recipe": recipe,
            "recipe_digest": digest_of(recipe),
            "digest": digest_of([digest]),
            "shards": [entry],
            "splits": {"train": _counts(videos, captions)} | ({"dev": _counts(dev, captions)} if dev else {}),
        },
    )
    return folder


def _counts(videos: int, captions: int) -> dict[str, int]:
    return {"videos": videos, "captions": videos * captions}


def caption(number: int) -> str:
    """Return a caption of a dozen words."""
    return " ".join(np.random.default_rng(number).choice(WORDS, 12))


def _row(number: int, frames: int, side: int, captions: int, random: np.random.Generator) -> dict[str, object]:
    return {
        "video_id": f"v{number}",
        "split": "train",
        "captions": [caption(number * captions + one) for one in range(captions)],
        "attributes": [],
        "frames": [random.bytes(side * side * 3) for _ in range(frames)],
        "frame_codec": "raw",
        "height": side,
        "width": side,
        "timestamps_s": [float(second) for second in range(frames)],
        "uri": f"/v{number}.mp4",
        "source_codec": "h264",
        "source_width": side,
        "source_height": side,
        "source_fps": 1.0,
        "source_duration_s": float(frames),
        "source_bytes": 1,
        "source_sha256": "0" * 64,
    }
