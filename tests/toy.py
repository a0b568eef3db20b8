"""Small made-up datasets, CLIP models and settings for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from gare.common.files import digest_of, file_digest, write_json
from gare.config.tree import load_config
from gare.model import GareModel
from gare.model.checkpoint import save_model
from gare.model.scratch import ScratchClip, make_clip
from gare.schema import DATASET_FILE, SCHEMA_VERSION, SHARD, SHARD_FOLDER, stamped

SIDE = 32
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "grey": (128, 128, 128)}
CORNERS = {"left": (0, 0), "right": (0, 16), "low": (16, 0), "high": (16, 16)}
OVERRIDES = (
    "model.temporal_layers=1",
    "data.frames=3",
    "data.words=12",
    "prepare.max_frames=3",
    f"prepare.crop={SIDE}",
    f"prepare.short_side={SIDE}",
    "train.global_batch=4",
    "train.epochs=2",
    "train.lr_clip=1e-3",
    "train.lr_new=1e-3",
    "runtime.log_every=1",
    "runtime.tracking=false",
)


def clip(colour, corner, frames, random, shape=(SIDE, SIDE)):
    """Frames [n, 32, 32, 3] (or of another shape) of a coloured square in a corner."""
    picture = random.integers(0, 40, (frames, *shape, 3), np.uint8)
    y, x = CORNERS[corner]
    picture[:, y : y + 16, x : x + 16] = COLOURS[colour]
    return picture


def make_shards(
    folder: Path,
    splits: dict[str, int],
    *,
    captions: int = 2,
    uncaptioned: str = "",
    seed: int = 0,
    stored: int = 3,
    shape: tuple[int, int] = (SIDE, SIDE),
    change: Callable[[dict], object] = lambda _: None,
    **recipe: object,
) -> Path:
    """A folder as gare prepare leaves it, with the given number of videos per split in two shards.

    ``uncaptioned``: a split, or a video such as train3, without captions. ``stored``: videos have 1 to this many
    frames of ``shape``. ``change``: gets each row, to change it. ``recipe``: other settings of the recipe than those.
    """
    random = np.random.default_rng(seed)
    rows = []
    for split, count in splits.items():
        for n in range(count):
            colour, corner = list(COLOURS)[n % 4], list(CORNERS)[n // 4 % 4]
            frames = clip(colour, corner, 1 + n % stored, random, shape)
            rows.append(
                {
                    "video_id": f"{split}{n}",
                    "split": split,
                    "captions": [f"a {colour} square {corner}", f"{corner} is a {colour} square"][
                        : 0 if uncaptioned in (split, f"{split}{n}") else captions
                    ],
                    "attributes": [("colour", colour)],
                    "frames": [f.tobytes() for f in frames],
                    "frame_codec": "raw",
                    "height": shape[0],
                    "width": shape[1],
                    "timestamps_s": [float(t) for t in range(len(frames))],
                    "uri": f"/videos/{split}{n}.mp4",
                    "source_codec": "h264",
                    "source_width": 64,
                    "source_height": 48,
                    "source_fps": 10.0,
                    "source_duration_s": 3.0,
                    "source_bytes": 1000,
                    "source_sha256": "0" * 64,
                }
            )
    for row in rows:
        change(row)
    (folder / SHARD_FOLDER).mkdir(parents=True)
    recipe = {"crop": SIDE, "short_side": SIDE, "max_frames": stored, "square_pixels": True, **recipe}
    entries = []
    for unit, part in enumerate((rows[::2], rows[1::2])):
        schema = stamped(SHARD, recipe_digest=digest_of(recipe), unit=unit)
        path = folder / SHARD_FOLDER / f"unit-{unit:06d}-00.arrow"
        with pa.ipc.new_file(path, schema) as writer:
            writer.write_table(pa.Table.from_pylist(part, schema=schema), max_chunksize=3)
        entries.append(
            {
                "file": path.name,
                "unit": unit,
                "rows": len(part),
                "bytes": path.stat().st_size,
                "sha256": file_digest(path),
            }
        )
    counts = {s: {"videos": n, "captions": n * captions} for s, n in splits.items()}
    write_json(
        folder / DATASET_FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "recipe": recipe,
            "recipe_digest": digest_of(recipe),
            "digest": digest_of([e["sha256"] for e in entries]),
            "shards": entries,
            "splits": counts,
        },
    )
    return folder


def make_toy_clip(folder: Path) -> Path:
    """A CLIP model small enough for a unit test."""
    captions = [f"a {colour} square {corner} is" for colour in COLOURS for corner in CORNERS]
    make_clip(captions, folder, ScratchClip(SIDE, 16, 64, 1, 1, 16, 600))
    return folder


def toy_config(clip_folder: Path, shards: Path, output: Path, *overrides: str):
    """Settings of a run that takes a second or two."""
    places = (f"model.clip={clip_folder}", f"runtime.shards={shards}", f"runtime.output={output}", "runtime.name=toy")
    return load_config(None, [*OVERRIDES, *places, *overrides])


def make_checkpoint(folder: Path, clip_folder: Path, shards: Path) -> None:
    """Write a checkpoint of an untrained model."""
    config = toy_config(clip_folder, shards, folder, "model.max_frames=3")
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    save_model(GareModel.from_clip(clip_folder, config.model).eval(), config, folder)
