"""Check a dataset from any source, and count its contents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gare.common.errors import InputError
from gare.common.storage import Folder
from gare.schema import DATASET_FILE, UNIT_KEY
from pipelines.dataset.layout import ShardFile, dataset_digest
from pipelines.dataset.shard_rows import light_rows, stored_problems
from pipelines.dataset.tools.dataset import Dataset, Tally, open_dataset, rows_in_brief
from pipelines.manifest.rows import VideoIds

NAMED_IDS = 3
OnShard = Callable[[], None]
OnProgress = Callable[[int, int], None]


class Steps:
    """Reports how many of ``total`` steps are done each time it is called."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._total, self._done, self._on_progress = total, 0, on_progress

    def __call__(self) -> None:
        """Count one more step as done."""
        self._done += 1
        self._on_progress(self._done, self._total)


def validate(datasets: Sequence[Dataset], on_shard: OnShard = lambda: None) -> list[Tally]:
    """Check datasets that you want to use together; return the figures of each.

    ``on_shard`` is called after every shard. Raises InputError for the first fault, and for repeated video ids.
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
    """Yield a sentence for each fault of a dataset; ``tally`` and ``ids`` collect the rows of sound shards.

    The figures of ``dataset.json`` are compared if all shards could be read. ``repeated`` compares the ids.
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
    """Yield at most one sentence, naming repeated video ids; ``ids`` holds those of all rows."""
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
    except InputError:  # reported already
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


def stat(place: Folder, *, verify: bool = False, on_progress: OnProgress = lambda *_: None) -> dict[str, Any]:
    """Return the figures of the finished shards of a folder as plain values.

    Every shard is opened, and its columns, version, recipe and rows are always checked, with Arrow's full validation.
    ``verify``: also check its digest, the values of its rows, repeated video ids and the figures of ``dataset.json``.
    ``rows``, ``frames``, ``splits``, ``frame_codecs`` and ``frame_sizes`` cover the shards that could be read;
    ``problems`` is a sentence for each fault. Raises InputError if there is no dataset.
    """
    dataset = open_dataset(place)
    tally, steps = Tally(), Steps(len(dataset.shards), on_progress)
    if verify:
        ids = VideoIds()
        wrong = [*problems(dataset, tally, ids, steps), *repeated([dataset], ids)]
    else:
        wrong = _count(dataset, tally, steps)
    sizes = [shard.bytes for shard in dataset.shards]
    return {
        "folder": str(place),
        "schema_version": dataset.values["schema_version"],
        "digest": dataset.digest,
        "recipe_digest": dataset.recipe_digest,
        "made_from": dataset.values.get("made_from"),
        "shards": [{"file": s.file, "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256} for s in dataset.shards],
        "rows": tally.rows,
        "frames": tally.frames,
        "bytes": {"total": sum(sizes), "min": min(sizes, default=0), "max": max(sizes, default=0)},
        "splits": dict(sorted(tally.splits.items())),
        "frame_codecs": dict(tally.codecs.most_common()),
        "frame_sizes": dict(tally.sizes.most_common()),
        "recipe": dataset.values["recipe"],
        "verified": verify,
        "problems": wrong,
    }


def _count(dataset: Dataset, tally: Tally, steps: Steps) -> list[str]:
    wrong = []
    for shard in dataset.shards:
        try:
            tally.add(rows_in_brief(dataset.table(shard)))
        except InputError as error:
            wrong.append(str(error))
        steps()
    return wrong
