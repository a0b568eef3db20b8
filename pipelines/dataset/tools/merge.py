"""Merge several datasets of one recipe: the same shards under new names, in the given order."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gare.common.errors import InputError
from gare.common.files import file_digest, fsync_directory
from gare.common.locks import held
from gare.common.storage import Folder
from gare.config import Config
from gare.config.prepare import BEFORE
from gare.config.tree import diff
from gare.schema import SHARD_FOLDER
from pipelines.dataset.layout import ShardFile
from pipelines.dataset.tools.check import OnProgress, Steps, validate
from pipelines.dataset.tools.dataset import Dataset, Tally, open_dataset
from pipelines.dataset.tools.target import Made, Target, summed, values_like


def merge(
    places: Sequence[Folder], out: Folder, *, copy: bool = False, on_progress: OnProgress = lambda *_: None
) -> Made:
    """Make one dataset of several, whose shards become hard links if ``out`` is on the same disk, else copies.

    ``copy``: always copy. ``on_progress`` receives the number of shards checked or written, and their total.
    Everything is validated before anything is written. Raises InputError for datasets that are damaged, of several
    recipes, or share video ids, and if ``out`` holds something else; RunError if another process holds it.
    """
    datasets = [open_dataset(place) for place in places]
    _refuse_other_recipes(datasets)
    target = Target(out, {"command": "merge", "datasets": [dataset.digest for dataset in datasets]})
    if made := target.finished():
        return made
    steps = Steps(2 * sum(len(dataset.shards) for dataset in datasets), on_progress)
    tallies = validate(datasets, steps)
    with held(out):
        if made := target.finished():
            return made
        target.begin()
        shards: list[ShardFile] = []
        for dataset, shard in ((one, shard) for one in datasets for shard in one.shards):
            shards.append(_place(dataset, shard, out, f"shard-{len(shards):06d}.arrow", copy=copy))
            steps()
        return target.finish(_values(datasets, shards, tallies))


def _values(datasets: Sequence[Dataset], shards: Sequence[ShardFile], tallies: Sequence[Tally]) -> dict[str, Any]:
    tally = Tally(rows=sum(one.rows for one in tallies), frames=sum(one.frames for one in tallies))
    for name, counts in ((name, counts) for one in tallies for name, counts in one.splits.items()):
        split = tally.splits.setdefault(name, {"videos": 0, "captions": 0})
        split.update({key: split[key] + count for key, count in counts.items()})
    return values_like(
        datasets[0],
        shards,
        tally,
        filtered=summed(datasets, "filtered") or Counter(),
        failed=summed(datasets, "failed") or Counter(),
        notes=summed(datasets, "notes"),
    )


def _place(dataset: Dataset, shard: ShardFile, out: Folder, name: str, *, copy: bool) -> ShardFile:
    """Put a shard into ``out``, whole or not at all. Raises InputError if it changed since it was checked."""
    source, path = f"{SHARD_FOLDER}/{shard.file}", f"{SHARD_FOLDER}/{name}"
    there = out.size(path) == shard.bytes and out.sha256(path) == shard.sha256
    if not there and (copy or not _link(dataset.place, source, out, path)):
        with out.writing(path) as temporary:
            dataset.place.fetch(source, temporary)
            if file_digest(temporary) != shard.sha256:
                raise InputError(f"The shard {dataset.name(shard)} was changed while it was copied.")
    return replace(shard, file=name)


def _link(place: Folder, source: str, out: Folder, path: str) -> bool:
    """Make a hard link; return False if that is impossible."""
    if not (place.is_local and out.is_local):
        return False
    target = out.local / path
    try:
        target.unlink(missing_ok=True)
        os.link((place.local / source).resolve(), target)
        fsync_directory(target.parent)
    except OSError:  # another file system, or one without links
        return False
    return True


def _refuse_other_recipes(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        if other.recipe_digest == first.recipe_digest:
            continue
        settings = [Config().model_copy(update={"prepare": one.recipe}) for one in (first, other)]
        different = [f"{key} is {a} and {b}" for key, (a, b) in diff(*settings).items()]
        if BEFORE.keys() & (first.values["recipe"].keys() ^ other.values["recipe"].keys()):
            different.append("one is of an older version of this software, which made other pictures of some videos")
        raise InputError(
            f"{first.place} and {other.place} were made by different recipes: {'; '.join(different)}. "
            "Shards of two recipes never mix."
        )
