"""Recognise what a folder holds by its files, so that no command overwrites another's output."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from gare.common.errors import InputError
from gare.common.files import refuse_file
from gare.common.storage import Folder

Kind = Literal[
    "a sweep", "a training run", "a checkpoint", "prepared shards", "a search index", "a corpus", "a CLIP model",
    "an evaluation",
]  # fmt: skip

TELLING: tuple[tuple[Kind, tuple[tuple[str, ...], ...]], ...] = (
    ("a sweep", (("sweep.json",),)),
    ("a training run", (("run.json",),)),
    ("a checkpoint", (("checkpoint.json",), ("model.safetensors", "config.yaml"))),
    ("prepared shards", (("dataset.json",), ("recipe.json",), ("manifest.arrow",), ("unfinished.json",))),
    ("a search index", (("index.json",),)),
    ("a corpus", (("corpus.json",),)),
    ("a CLIP model", (
        ("config.json", "model.safetensors"), ("config.json", "pytorch_model.bin"),
        ("config.json", "preprocessor_config.json"), ("config.json", "tokenizer_config.json"),
        ("open_clip_config.json",), ("scratch.json",), ("exported.json",),
    )),
    ("an evaluation", (("metrics.json",),)),
)  # fmt: skip
"""Sets of files; a folder of the kind has one of the sets. The first matching kind counts."""

OWNED = {name for _, sets in TELLING for names in sets for name in names} | {
    "history.jsonl",
    "tracking.json",
    "mlflow.json",
}
OWNED_SUFFIXES = {".safetensors", ".pt", ".arrow", ".bin", ".records", ".media", ".codes", ".deleted", ".basis"}
OWNED_BESIDE = {
    "ranks.parquet": "metrics.json",
    "report.html": "metrics.json",
    "best.yaml": "comparison.html",
    "comparison.json": "comparison.html",
    "comparison.html": "comparison.json",
}
"""Common file names -> the file that, in the same folder, shows that they are ours."""


def lies_in(folder: Path) -> Kind | None:
    """Return which of our things a folder holds; None for other things or no folder.

    StorageError if it cannot be read.
    """
    there = set() if folder.is_file() else set(Folder.at(folder).names())
    return next((kind for kind, sets in TELLING if any(there.issuperset(names) for names in sets)), None)


def refuse_occupied(folder: Path, *allowed: Kind) -> None:
    """Raise InputError if a target is not a folder, or holds something of ours other than the kinds ``allowed``."""
    refuse_file(folder)
    kind = lies_in(folder)
    if kind is not None and kind not in allowed:
        raise InputError(f"{folder} holds {kind}, which is never written over; choose another folder.")


def refuse_part(file: Path) -> None:
    """Raise InputError if a target file exists and is part of a run, a checkpoint, a dataset or the like."""
    beside = OWNED_BESIDE.get(file.name)
    owned = file.name in OWNED or file.suffix in OWNED_SUFFIXES
    if (owned or (beside is not None and file.with_name(beside).exists())) and file.exists():
        kind = lies_in(file.parent)
        raise InputError(f"{file} is a part of {kind or 'something else'}, never written over; choose another file.")
