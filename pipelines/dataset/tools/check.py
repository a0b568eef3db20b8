"""Whether a dataset is what it says: every shard by its digest and its rows, and the figures of ``dataset.json``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gare.common.errors import InputError
from gare.schema import DATASET_FILE, UNIT_KEY
from pipelines.dataset import ShardFile, dataset_digest
from pipelines.dataset.row_checks import light_rows, stored_problems
from pipelines.dataset.tools.dataset import Dataset, Tally, rows_in_brief
from pipelines.manifest.rows import VideoIds

NAMED_IDS = 3
OnShard = Callable[[], None]
OnProgress = Callable[[int, int], None]


class Steps:
    """Tells how many of ``total`` steps are done, whenever it is called."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._total, self._done, self._on_progress = total, 0, on_progress

    def __call__(self) -> None:
        """Note that one more is done."""
        self._done += 1
        self._on_progress(self._done, self._total)


def validate(datasets: Sequence[Dataset], on_shard: OnShard = lambda: None) -> list[Tally]:
    """Check datasets that are to be used together; the figures of each.

    ``on_shard`` is called after every shard. Raises InputError for the first thing that is wrong, and for video ids
    that are there more than once.
    """
    ids, tallies = VideoIds(), []
    for dataset in datasets:
        tallies.append(Tally())
        for problem in problems(dataset, tallies[-1], ids, on_shard):
            raise InputError(f"{problem} gare shards stat {dataset.place} --verify lists all that is wrong there.")
    for sentence in repeated(datasets, ids):
        raise InputError(sentence)
    return tallies


def problems(dataset: Dataset, tally: Tally, ids: VideoIds, on_shard: OnShard = lambda: None) -> Iterator[str]:
    """Say all that is wrong with a dataset, a sentence each; ``tally`` and ``ids`` take up the rows of sound shards.

    The figures of ``dataset.json`` are compared where all shards could be read. Ids are compared by ``repeated``.
    """
    whole = True
    for shard in dataset.shards:
        try:
            table = dataset.table(shard, digest=True)
        except InputError as error:
            yield str(error)
            whole = False
        else:
            name = dataset.name(shard)
            if table.schema.metadata.get(UNIT_KEY) != str(shard.unit).encode():
                yield f"The shard {name} is not of work unit {shard.unit}, as recorded."
            for row in light_rows(table):
                yield from stored_problems(f"{row['video_id']!r} in {name}", row, dataset.recipe)
            tally.add(rows_in_brief(table))
            ids.add(table["video_id"])
        on_shard()
    if whole:
        yield from _figures(dataset, tally)


def repeated(datasets: Sequence[Dataset], ids: VideoIds) -> Iterator[str]:
    """Say, in at most one sentence, which video ids are there more than once; ``ids`` are those of all rows."""
    if not ids.suspects:
        return
    where: defaultdict[str, list[str]] = defaultdict(list)
    for dataset, shard in ((one, shard) for one in datasets for shard in one.shards):
        for video_id in _ids(dataset, shard):
            where[video_id].append(dataset.name(shard))
    twice = [f"{video_id!r} ({' and '.join(places)})" for video_id, places in where.items() if len(places) > 1]
    if twice:
        more = f" and {len(twice) - NAMED_IDS} more" if len(twice) > NAMED_IDS else ""
        yield f"A video is one row, but these are there more than once: {', '.join(twice[:NAMED_IDS])}{more}."


def _ids(dataset: Dataset, shard: ShardFile) -> list[str]:
    try:
        return list(dataset.table(shard)["video_id"].to_pylist())
    except InputError:  # said already
        return []


def _figures(dataset: Dataset, tally: Tally) -> Iterator[str]:
    path, values = dataset.place.named(DATASET_FILE), dataset.values
    if values["digest"] != dataset_digest(dataset.recipe_digest, dataset.shards):
        yield f"{path} has another digest than its recipe and shards give."
    if values["splits"] != tally.splits:
        yield f"{path} counts other splits than its shards hold."
    there: dict[str, Any] = values.get("totals", {})
    size = sum(shard.bytes for shard in dataset.shards)
    for name, count in {"ok": tally.rows, "frames": tally.frames, "bytes": size}.items():
        if there.get(name) != count:
            yield f"{path} counts {there.get(name)} as {name} in its totals, and its shards give {count}."
