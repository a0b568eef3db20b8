"""Which rows of a dataset go into which part: by split, evenly, some splits, or some videos."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare.common.errors import InputError
from gare.common.files import digest_of
from gare.common.storage import is_address
from gare.common.text import PLAIN_NAME
from pipelines.dataset.tools.check import NAMED_IDS
from pipelines.dataset.tools.dataset import Dataset, Tally
from pipelines.manifest.files import text_lines
from pipelines.manifest.reading import stream_manifest

PartOf = Callable[[int, str, str], str | None]
"""The part of a row, by its place among all rows, its video id and its split; None for one that is left out."""

Plan = tuple[list[str], PartOf]
"""The parts' names, and the part of each row. The one part without a name is the output folder itself."""


@dataclass(frozen=True)
class Cut:
    """A way to cut a dataset.

    ``described``: what it is, as plain values; ``plan``: what it comes to for a dataset; ``asked``: how many videos are
    asked for by id, None where they are not.
    """

    described: dict[str, Any]
    plan: Callable[[Dataset, Tally], Plan]
    asked: int | None = None


def whole() -> Cut:
    """All rows, in other shards."""
    return Cut({"take": "all"}, lambda *_: ([""], lambda *_: ""))


def by_split() -> Cut:
    """A part for every split, named after it."""

    def plan(dataset: Dataset, tally: Tally) -> Plan:
        for name in tally.splits:
            if not PLAIN_NAME.fullmatch(name):
                raise InputError(f"{dataset.place} has a split {name!r}, which is no name for a folder; use --take.")
        return sorted(tally.splits), lambda _row, _video_id, split: split

    return Cut({"by": "split"}, plan)


def in_parts(number: int) -> Cut:
    """As many parts of consecutive rows, whose lengths differ by one at most: ``part-0000`` and so on."""

    def plan(dataset: Dataset, tally: Tally) -> Plan:
        if not 1 <= number <= tally.rows:
            raise InputError(f"{dataset.place} has {tally.rows} videos, which cannot be cut into {number} parts.")
        names = [f"part-{part:04d}" for part in range(number)]
        return names, lambda row, _video_id, _split: names[row * number // tally.rows]

    return Cut({"parts": number}, plan)


def of_splits(splits: Sequence[str]) -> Cut:
    """The rows of some splits."""

    def plan(dataset: Dataset, tally: Tally) -> Plan:
        missing = [name for name in splits if name not in tally.splits]
        if missing:
            there = ", ".join(sorted(tally.splits)) or "none"
            raise InputError(f"{dataset.place} has no split {missing[0]!r}; its splits are: {there}.")
        return [""], lambda _row, _video_id, split: "" if split in splits else None

    return Cut({"take": sorted(set(splits))}, plan)


def of_ids(path: str, *, allow_missing: bool = False) -> Cut:
    """The rows of the videos that a file names: a manifest, or text (``.txt``) with an id per line.

    ``allow_missing``: ids that the dataset does not have are passed over, while there are others.
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
