"""Cut one dataset into several, in various ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gare.common.errors import InputError, StorageError
from gare.common.files import digest_of
from gare.common.locks import held
from gare.common.occupied import refuse_occupied
from gare.common.storage import Folder, is_address
from gare.common.text import PLAIN_NAME
from pipelines.dataset.layout import Output
from pipelines.dataset.ledger import Ledger
from pipelines.dataset.opening import existing_output
from pipelines.dataset.shard_rows import ShardWriter
from pipelines.dataset.tools.check import NAMED_IDS, OnProgress, Steps, validate
from pipelines.dataset.tools.dataset import Dataset, Tally, open_dataset, rows_in_brief
from pipelines.dataset.tools.target import Made, Target, values_like
from pipelines.manifest.files import text_lines
from pipelines.manifest.load import stream_manifest

PartOf = Callable[[int, str, str], str | None]
"""Maps a row's place among all rows, its video id and its split to its part; None leaves the row out."""

Plan = tuple[list[str], PartOf]
"""The parts' names, and the part of each row. A single part without a name is the output folder itself."""


@dataclass(frozen=True)
class Cut:
    """A way to cut a dataset.

    ``described``: its description as plain values; ``plan``: makes the plan for a dataset; ``asked``: how many videos
    are requested by id, None if not by id.
    """

    described: dict[str, Any]
    plan: Callable[[Dataset, Tally], Plan]
    asked: int | None = None


def whole() -> Cut:
    """Take all rows, in other shards."""
    return Cut({"take": "all"}, lambda *_: ([""], lambda *_: ""))


def by_split() -> Cut:
    """Make a part for every split, named after it."""

    def plan(dataset: Dataset, tally: Tally) -> Plan:
        for name in tally.splits:
            if not PLAIN_NAME.fullmatch(name):
                raise InputError(f"{dataset.place} has a split {name!r}, which is not a name for a folder; use --take.")
        return sorted(tally.splits), lambda _row, _video_id, split: split

    return Cut({"by": "split"}, plan)


def in_parts(number: int) -> Cut:
    """Make ``number`` parts of consecutive rows, whose lengths differ by at most one: ``part-0000`` and so on."""

    def plan(dataset: Dataset, tally: Tally) -> Plan:
        if not 1 <= number <= tally.rows:
            raise InputError(f"{dataset.place} has {tally.rows} videos, which cannot be cut into {number} parts.")
        names = [f"part-{part:04d}" for part in range(number)]
        return names, lambda row, _video_id, _split: names[row * number // tally.rows]

    return Cut({"parts": number}, plan)


def of_splits(splits: Sequence[str]) -> Cut:
    """Take the rows of some splits."""

    def plan(dataset: Dataset, tally: Tally) -> Plan:
        missing = [name for name in splits if name not in tally.splits]
        if missing:
            there = ", ".join(sorted(tally.splits)) or "none"
            raise InputError(f"{dataset.place} has no split {missing[0]!r}; its splits are: {there}.")
        return [""], lambda _row, _video_id, split: "" if split in splits else None

    return Cut({"take": sorted(set(splits))}, plan)


def of_ids(path: str, *, allow_missing: bool = False) -> Cut:
    """Take the videos that a file names: a manifest, or text (``.txt``) with an id per line.

    ``allow_missing``: skip ids that the dataset does not have, as long as it has others.
    """
    wanted = frozenset(_read_ids(path))

    def plan(dataset: Dataset, _: Tally) -> Plan:
        missing = sorted(wanted - _all_ids(dataset, wanted))
        if missing and (not allow_missing or len(missing) == len(wanted)):
            more = f" and {len(missing) - NAMED_IDS} more" if len(missing) > NAMED_IDS else ""
            raise InputError(
                f"{dataset.place} does not have {len(missing)} of the {len(wanted)} videos of {path}: "
                f"{', '.join(map(repr, missing[:NAMED_IDS]))}{more}."
                f"{'' if allow_missing else ' --allow-missing takes the others.'}"
            )
        return [""], lambda _row, video_id, _split: "" if video_id in wanted else None

    return Cut({"ids": digest_of(sorted(wanted))}, plan, len(wanted))


def _all_ids(dataset: Dataset, wanted: Collection[str]) -> set[str]:
    tables = (dataset.table(shard) for shard in dataset.shards)
    return {video_id for table in tables for video_id in table["video_id"].to_pylist() if video_id in wanted}


def _read_ids(path: str) -> Iterator[str]:
    if not path.lower().endswith(".txt") or is_address(path):
        for table in stream_manifest(path):
            yield from table["video_id"].to_pylist()
        return
    ids = [line.strip() for line in text_lines(Path(path)) if line.strip()]
    if not ids:
        raise InputError(f"{path} names no video; it needs a video id per line.")
    yield from ids


Notes = Mapping[str, list[str]]
"""Video id -> its notes, for videos that have any."""


class Part:
    """A dataset that is being written: its shards, and their figures so far."""

    def __init__(self, target: Target, output: Output, stack: ExitStack) -> None:
        self.target, self.tally, self.notes = target, Tally(), Counter[str]()
        target.begin()
        self.writer = stack.enter_context(ShardWriter(output, unit=0))

    def add(self, table: pa.Table, rows: list[int], brief: pa.Table, notes: Notes) -> None:
        """Write some rows of a shard."""
        for row in rows:
            values = table.slice(row, 1).to_pylist()[0]
            self.writer.add(values)
            self.notes.update(notes.get(values["video_id"], []))
        self.tally.add(brief.take(pa.array(rows, pa.int64())))


def split(
    place: Folder,
    out: Folder,
    cut: Cut,
    *,
    shard_bytes: int | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> dict[str, Made]:
    """Make a dataset of every part of another one, below ``out`` (in ``out`` itself for the part without a name).

    ``shard_bytes``: close a shard once its frames hold this much; the recipe's value if None. ``on_progress`` receives
    the number of shards checked or cut, and their total. Everything is validated before anything is written.
    Raises InputError for a dataset that is damaged or cannot be cut this way, and if ``out`` holds something else;
    RunError if another process holds it.
    """
    dataset = open_dataset(place)
    steps = Steps(2 * len(dataset.shards), on_progress)
    (tally,) = validate([dataset], steps)
    names, part_of = cut.plan(dataset, tally)
    if out.is_local:
        refuse_occupied(out.local, *(("prepared shards",) if "" in names else ()))
    size = shard_bytes or dataset.recipe.shard_bytes
    made_from = {"command": "split", "datasets": [dataset.digest], "shard_bytes": size, **cut.described}
    targets = {name: Target(out.below(name) if name else out, made_from | {"part": name}) for name in names}
    made = _finished(targets)
    if len(made) == len(targets):
        return made
    with held(out):
        made = _finished(targets)
        todo = {name: target for name, target in targets.items() if name not in made}
        made |= _write(dataset, todo, part_of, size, steps)
    return {name: made[name] for name in names}


def _finished(targets: Mapping[str, Target]) -> dict[str, Made]:
    found = {name: target.finished() for name, target in targets.items()}
    return {name: made for name, made in found.items() if made}


def _write(
    dataset: Dataset, targets: Mapping[str, Target], part_of: PartOf, shard_bytes: int, steps: Steps
) -> dict[str, Made]:
    known = _notes(dataset)
    recipe = dataset.recipe.model_copy(update={"shard_bytes": shard_bytes})
    with ExitStack() as stack:
        parts = {
            name: Part(target, Output(target.place, recipe, dataset.recipe_digest, ""), stack)
            for name, target in targets.items()
        }
        first = 0
        for shard in dataset.shards:
            table = dataset.table(shard, digest=True)
            brief = rows_in_brief(table)
            for name, rows in _rows_of_parts(table, part_of, first).items():
                if name in parts:
                    parts[name].add(table, rows, brief, known or {})
            first += table.num_rows
            steps()
    made = {}
    for name, part in parts.items():
        notes = None if known is None else part.notes
        values = values_like(dataset, part.writer.finished, part.tally, filtered={}, failed={}, notes=notes)
        made[name] = part.target.finish(values)
    return made


def _rows_of_parts(table: pa.Table, part_of: PartOf, first: int) -> dict[str, list[int]]:
    """Return the rows of a shard that go into each part, in order. ``first``: number of rows in earlier shards."""
    found: dict[str, list[int]] = {}
    for row, (video_id, name) in enumerate(zip(*(table[c].to_pylist() for c in ("video_id", "split")), strict=True)):
        part = part_of(first + row, video_id, name)
        if part is not None:
            found.setdefault(part, []).append(row)
    return found


def _notes(dataset: Dataset) -> Notes | None:
    """Return every video's notes, which only the ledger has; None if it is missing or its counts differ."""
    counted = dataset.values["totals"].get("notes")
    if not counted:
        return None if counted is None else {}
    try:
        output = existing_output(dataset.place)
        ledger = Ledger(output)
        tables = [ledger.part(unit).table.select(["video_id", "status", "notes"]) for unit in range(output.units())]
    except StorageError:
        raise
    except InputError:
        return None
    rows = (row for table in tables for row in table.to_pylist())
    notes = {row["video_id"]: row["notes"] for row in rows if row["status"] == "ok" and row["notes"]}
    return notes if Counter(note for each in notes.values() for note in each) == Counter(counted) else None
