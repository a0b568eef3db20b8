"""A dataset under construction: it replaces nothing else, writes ``dataset.json`` last, and continues after a kill."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gare.common.errors import InputError
from gare.common.occupied import refuse_occupied
from gare.common.records import load_json
from gare.common.storage import Folder
from gare.schema import DATASET_FILE, LEDGER_FOLDER, SHARD_FOLDER
from pipelines.dataset.layout import RECIPE_FILE, ShardFile
from pipelines.dataset.ledger import dataset_values
from pipelines.dataset.tools.dataset import Dataset, Tally, open_dataset

UNFINISHED_FILE = "unfinished.json"
"""Identifies the future dataset. Written first and removed last; while it exists, the folder may be overwritten."""


@dataclass(frozen=True)
class Made:
    """A finished dataset. ``reused``: it already existed, finished and made from the same data."""

    place: Folder
    values: dict[str, Any]
    reused: bool


@dataclass(frozen=True)
class Target:
    """A folder for a new dataset. ``made_from``: its sources and how it is made, which identify it."""

    place: Folder
    made_from: dict[str, Any]

    def finished(self) -> Made | None:
        """Return the dataset if already finished, None if it can be made. Raises InputError for other contents."""
        if self.place.is_local and self.place.local.exists() and not self.place.local.is_dir():
            raise InputError(f"{self.place} is a file; --out is a folder.")
        if self.place.is_local:
            refuse_occupied(self.place.local, "prepared shards")
        there = _read(self.place, DATASET_FILE)
        if there is not None and there.get("made_from") == self.made_from:
            dataset, sizes = open_dataset(self.place), self.place.sizes(SHARD_FOLDER)
            whole = all(sizes.get(shard.file) == shard.bytes for shard in dataset.shards)
            return Made(self.place, dataset.values, reused=True) if whole else None
        if there is not None or any(self.place.exists(name) for name in (RECIPE_FILE, LEDGER_FOLDER)):
            raise InputError(f"{self.place} holds another dataset; give another --out.")
        begun = _read(self.place, UNFINISHED_FILE)
        if begun is not None and begun != self.made_from:
            raise InputError(
                f"{self.place} holds an unfinished dataset of other data; remove it or give another --out."
            )
        if begun is None and self.place.names(SHARD_FOLDER):
            raise InputError(f"{self.place} holds shards of something else; give another --out.")
        return None

    def begin(self) -> None:
        """Record what the folder will become."""
        self.place.write_json(UNFINISHED_FILE, self.made_from)
        self.place.make(SHARD_FOLDER)

    def finish(self, values: Mapping[str, Any]) -> Made:
        """Remove leftovers of an earlier attempt, write ``dataset.json``, and mark the dataset as finished."""
        self._remove_leftovers({shard["file"] for shard in values["shards"]})
        made = {**values, "made_from": self.made_from}
        self.place.write_json(DATASET_FILE, made)
        self.place.remove(UNFINISHED_FILE)
        return Made(self.place, made, reused=False)

    def _remove_leftovers(self, listed: Collection[str]) -> None:
        for name in self.place.names(SHARD_FOLDER):
            if name not in listed:
                self.place.remove(f"{SHARD_FOLDER}/{name}")
        for name in self.place.names():
            if re.fullmatch(rf"\.({DATASET_FILE}|{UNFINISHED_FILE})\..*\.tmp", name):
                self.place.remove(name)


def values_like(
    origin: Dataset,
    shards: Sequence[ShardFile],
    tally: Tally,
    *,
    filtered: Mapping[str, int],
    failed: Mapping[str, int],
    notes: Mapping[str, int] | None,
) -> dict[str, Any]:
    """Make the ``dataset.json`` of ``shards`` with the recipe of ``origin``; ``notes``: None if they are unknown."""
    rows = tally.rows + sum(filtered.values()) + sum(failed.values())
    totals = {"rows": rows, "ok": tally.rows, "filtered": filtered, "failed": failed, "frames": tally.frames}
    totals |= {} if notes is None else {"notes": notes}
    return dataset_values(origin.values["recipe"], origin.recipe_digest, shards, tally.splits, totals)


def summed(datasets: Sequence[Dataset], name: str) -> Counter[str] | None:
    """Add up counts of the totals (filtered, failed or notes); return None if a dataset lacks them."""
    total: Counter[str] = Counter()
    for dataset in datasets:
        counts = dataset.values["totals"].get(name)
        if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
            return None
        total.update(counts)
    return total


def _read(place: Folder, name: str) -> dict[str, Any] | None:
    text = place.read_text(name) if place.size(name) is not None else None
    try:
        values = None if text is None else load_json(text)
    except ValueError:
        values = {}
    return values if values is None or isinstance(values, dict) else {}
