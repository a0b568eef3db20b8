"""Small jobs for a cluster of machines: their commands, how far they are, and what they came to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gare.common.files import file_digest, write_json
from gare.config import PrepareConfig
from gare.config.tree import to_yaml
from gare.model import load_model
from gare.runs.state import read_history
from gare.schema import MANIFEST
from pipelines.dataset.ledger import dataset_manifest
from pipelines.dataset.opening import open_output
from pipelines.manifest.rows import write_manifest
from pipelines.prepare.process_unit import process_unit
from tests import toy
from tests.videos import make_video

VIDEOS = 36
RECIPE = {"crop": 32, "short_side": 32, "unit_videos": 1}
RUN = (
    "runtime.workers=2",
    "train.epochs=24",
    "data.captions=one_per_video",
    "runtime.checkpoint_every_steps=3",
    "runtime.max_failures=3",
)
SWEEP = (
    "train.epochs=8",
    "data.captions=one_per_video",
    "runtime.checkpoint_every_steps=3",
    "runtime.max_failures=3",
    "sweep.space={objective.trust_region.weight: {grid: [0.0, 0.01, 0.02]}}",
    "sweep.max_concurrent=2",
)


@dataclass(frozen=True)
class Data:
    """What the jobs work on, in a folder that all machines see."""

    folder: Path

    def make(self) -> None:
        """Make it all: videos with their manifest, shards and a model."""
        rows = []
        for number in range(VIDEOS):
            path = make_video(self.folder / f"{number}.mp4", frames=150, size=(320, 240))
            rows.append({"video_id": f"v{number}", "uri": str(path), "split": "train", "captions": ["a bar"]})
        write_manifest(pa.Table.from_pylist(rows, schema=MANIFEST), self.manifest)
        toy.make_shards(self.folder / "shards", {"train": 18, "dev": 5, "test": 6})
        toy.make_toy_clip(self.folder / "clip")

    @property
    def manifest(self) -> Path:
        """Of the videos."""
        return self.folder / "manifest.parquet"

    def config(self, name: str, *overrides: str):
        """Settings of a toy run or sweep of this name."""
        place = self.folder / "clip", self.folder / "shards", self.folder / "runs"
        return toy.toy_config(*place, f"runtime.name={name}", *overrides)

    def file(self, name: str, *overrides: str) -> Path:
        """The same as a file."""
        path = self.folder / f"{name}.yaml"
        path.write_text(to_yaml(self.config(name, *overrides)))
        return path

    def prepare(self, out: Path) -> list[object]:
        """Arguments of gare prepare."""
        settings = (item for key, value in RECIPE.items() for item in ("--set", f"prepare.{key}={value}"))
        return ["prepare", self.manifest, "--out", out, *settings]

    def prepare_here(self, out: Path) -> None:
        """Prepare the manifest in this process, without Ray."""
        output = open_output(out, pq.read_table(self.manifest), PrepareConfig(**RECIPE))
        for unit in range(output.units()):
            process_unit(output, unit)
        write_json(out / "dataset.json", dataset_manifest(output))


def units_done(out: Path) -> int:
    """How many work units of gare prepare are finished."""
    return len(list(out.glob("ledger/unit-*.parquet")))


def prepared(out: Path) -> dict[str, object]:
    """Digests of what gare prepare made, and its ledger without what depends on time."""
    made: dict[str, object] = {path.name: file_digest(path) for path in [out / "dataset.json", *out.glob("shards/*")]}
    made |= {path.name: None for path in out.glob("shards/.*")}
    for path in sorted(out.glob("ledger/*")):
        made[path.name] = pq.read_table(path).drop_columns(["attempts", "decode_s"]).to_pylist()
    return made


def epochs_done(run: Path) -> int:
    """How many epochs of a training run have a checkpoint."""
    return sum("epoch" in row for row in read_history(run / "history.jsonl"))


def steps(run: Path) -> list[tuple[int, float]]:
    """Number and loss of each recorded step, in the order of the file."""
    return [(row["step"], row["train/loss"]) for row in read_history(run / "history.jsonl") if "train/loss" in row]


def best_weights(run: Path) -> dict[str, torch.Tensor]:
    """Weights of the run's best checkpoint."""
    return load_model(run / "checkpoints" / json.loads((run / "run.json").read_text())["best"]).state_dict()


def same_weights(one: Path, other: Path) -> bool:
    """Whether the best checkpoints of two runs are bit-identical."""
    a, b = best_weights(one), best_weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
