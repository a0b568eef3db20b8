"""Repair a unit whose files are not as they were written, without losing anything that is still there.

The repair writes a new generation next to the old files, which stay until its ledger part exists. Rows of intact
shards are kept; the others are decoded again. If that would lose something, nothing is changed and an error names the
unit.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from gare.common.dataset_file import read_shard
from gare.common.errors import InputError, StorageError
from gare.common.files import file_digest
from gare.schema import DATASET_FILE, SHARD_FOLDER
from pipelines.dataset.layout import Output, ShardFile, unit_name
from pipelines.dataset.ledger import Damaged, Ledger, Part, once_finished
from pipelines.dataset.shard_rows import Row, light_rows, stored_problems, write_unit
from pipelines.decode.errors import MAY_BE_DAMAGE, SAYS_NOTHING
from pipelines.prepare.attempts import Attempt, Tries, UnitCounts

SAME = ("video_id", "uri", "split", "captions", "attributes")
NAME = re.compile(r"unit-(\d{6,})(?:-r(\d{2,}))?-\d{2,}\.arrow")


@dataclass
class Lying:
    """Existing files of a unit. ``ledger``: its rows, if readable; ``stored``: position -> shard and row.

    ``lost``: why a shard cannot be used; ``generation``: the next one. ``recorded``: how many rows its shards held,
    if ``dataset.json`` says so.
    """

    ledger: list[Row] | None
    generation: int
    stored: dict[int, tuple[pa.Table, int]] = field(default_factory=dict)
    lost: str | None = None
    recorded: int | None = None

    def row(self, position: int) -> Row:
        """Return the SHARD row of a stored position."""
        table, row = self.stored[position]
        one: Row = table.slice(row, 1).to_pylist()[0]
        return one


def repair_unit(output: Output, unit: int, tries: Tries) -> UnitCounts:
    """Repair a damaged unit. Raises InputError and changes nothing if something would be lost."""
    rows = dict(enumerate(output.rows(unit)))
    with tempfile.TemporaryDirectory(prefix="gare-") as scratch:
        lying = look(output, unit, rows, Path(scratch))
        tally = Counter[str]()
        if lying.ledger is not None:
            made = _by_ledger(output, unit, lying, lying.ledger, rows, tries)
        else:
            made = _by_shards(output, unit, lying, rows, tries, tally)
        try:
            write_unit(output, unit, made, lying.generation)
        except LessError:  # no ledger part will name these files
            _remove(output, unit, lying.generation)
            raise
    return UnitCounts(unit, len(rows), tally["failed"], tally["kept"])


def look(output: Output, unit: int, rows: Mapping[int, Row], scratch: Path) -> Lying:
    """Read the existing files of a unit. Raises InputError if storage prevents reading them."""
    state = Ledger(output).state(unit)
    part = state.part if isinstance(state, Damaged) else state if isinstance(state, Part) else None
    there = _files(output, unit)
    generations = [*there.values(), *([part.generation] if part is not None else [])]
    lying = Lying(None if part is None else part.table.to_pylist(), max(generations, default=-1) + 1)
    known = part.shards if part is not None else (once_finished(output.place) or {}).get(unit)
    if part is None and known is not None:
        lying.recorded = sum(shard.rows for shard in known)
    if known is None and not all(_follows(name, there) for name in there):
        lying.lost = f"a shard of unit {unit} is missing"
    oldest_first = sorted(there, key=lambda name: (there[name], name))
    places = {row["video_id"]: position for position, row in rows.items()}
    for shard in oldest_first if known is None else known:
        try:
            table = _table(output, shard, scratch)
        except FileNotFoundError:
            lying.lost = f"the shard {shard if isinstance(shard, str) else shard.file} is missing"
            continue
        except Unusable as error:
            lying.lost = str(error)
            continue
        for number, row in enumerate(light_rows(table)):
            position = places.get(row["video_id"])
            if position is None or any(row[name] != rows[position][name] for name in SAME):
                continue
            if not any(stored_problems("", row, output.recipe)):
                lying.stored[position] = table, number
    return lying


class LessError(InputError):
    """The unit would hold less than it did."""


class Unusable(Exception):  # noqa: N818 - says what the shard is
    """A shard has changed since it was written."""


def _files(output: Output, unit: int) -> dict[str, int]:
    """Return the names of the unit's existing shards, each with its generation."""
    found = {}
    for name in output.place.names(SHARD_FOLDER):
        match = NAME.fullmatch(name)
        if match and name.startswith(unit_name(unit) + "-"):
            found[name] = int(match[2] or 0)
    return found


def _follows(name: str, there: Collection[str]) -> bool:
    """Return True if a shard is the first of its generation, or the one before it exists."""
    stem, _, number = name.removesuffix(".arrow").rpartition("-")
    return int(number) == 0 or f"{stem}-{int(number) - 1:02d}.arrow" in there


def _table(output: Output, shard: ShardFile | str, scratch: Path) -> pa.Table:
    """Map a shard. Raises Unusable if it has changed, FileNotFoundError if it does not exist."""
    name = shard if isinstance(shard, str) else shard.file
    digest = output.place.sha256(f"{SHARD_FOLDER}/{name}")
    if isinstance(shard, ShardFile) and digest != shard.sha256:
        raise Unusable(f"the shard {name} has another SHA-256 than is recorded")
    path = output.shards / name if output.place.is_local else scratch / name
    if not output.place.is_local:
        output.place.fetch(f"{SHARD_FOLDER}/{name}", path)
        if file_digest(path) != digest:
            raise InputError(f"{output.place.named(f'{SHARD_FOLDER}/{name}')} was read twice with two contents.")
    try:
        with pa.memory_map(str(path)) as source:
            rows = pa.ipc.open_file(source).read_all().num_rows
        return read_shard(path, recipe_digest=output.digest, rows=rows)
    except (InputError, OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise Unusable(f"the shard {name} is damaged") from None


def _by_ledger(
    output: Output, unit: int, lying: Lying, ledger: list[Row], rows: Mapping[int, Row], tries: Tries
) -> Iterator[Attempt]:
    """Keep the rows of the ledger part, and decode those whose shard is unusable."""
    todo = {n: rows[n] for n, entry in enumerate(ledger) if entry["status"] == "ok" and n not in lying.stored}
    made = tries(todo, output.recipe)
    for position, entry in enumerate(ledger):
        if position not in todo:
            yield entry, lying.row(position) if entry["status"] == "ok" else None
            continue
        new, fresh = next(made)
        if fresh is None:
            raise _less(output, unit, lying, new)
        yield new | {"attempts": new["attempts"] + entry["attempts"]}, fresh


def _by_shards(
    output: Output, unit: int, lying: Lying, rows: Mapping[int, Row], tries: Tries, tally: Counter[str]
) -> Iterator[Attempt]:
    """Decode all rows, as there is no ledger part; keep a stored row if its source gives nothing now or has changed.

    A row that gives nothing may have been in a lost shard: then there must be as many rows as recorded, or, without a
    record, the reason must be one that the source always had.
    """
    whole, missing = 0, list[Row]()
    for position, (new, fresh) in zip(rows, tries(rows, output.recipe), strict=True):
        if position in lying.stored:
            stored = lying.row(position)
            if fresh is not None and fresh["source_sha256"] == stored["source_sha256"]:
                yield new, fresh
            else:
                tally["kept"] += fresh is None
                yield _entry(output, stored, new["attempts"]), stored
            continue
        tally["failed"] += fresh is None
        whole += fresh is not None
        if fresh is None and (lying.recorded is not None or new["reason"] in SAYS_NOTHING | MAY_BE_DAMAGE):
            missing.append(new)
        yield new, fresh
    is_less = lying.recorded is None or len(lying.stored) + whole < lying.recorded
    if missing and lying.lost is not None and is_less:
        raise _less(output, unit, lying, missing[0])


def _entry(output: Output, stored: Row, attempts: int) -> Row:
    """Reconstruct the LEDGER row of a stored row, as far as possible."""
    recipe, frames = output.recipe, len(stored["frames"])
    cut = recipe.policy == "all_candidates" and frames == recipe.max_frames  # the clip may be longer
    entry: dict[str, Any] = {
        name: stored[name] for name in ("video_id", "uri", "split", "source_bytes", "source_sha256")
    }
    entry |= {"status": "ok", "notes": ["truncated"] if cut else [], "frames": frames}
    return entry | {"attempts": attempts, "decode_s": 0.0}


def _less(output: Output, unit: int, lying: Lying, entry: Row) -> LessError:
    lost = lying.lost or "a shard does not hold what its ledger part says"
    return LessError(
        f"{lost[0].upper()}{lost[1:]}, and the video {entry['video_id']!r} cannot be decoded again ({entry['reason']}: "
        f"{entry['message'].rstrip('.')}). Nothing was changed: bring the source or the file back. To have the unit "
        f"done again with the sources that are there, remove {DATASET_FILE}, {output.ledger_name(unit)} and "
        f"{SHARD_FOLDER}/{unit_name(unit)}-* from {output.place}."
    )


def _remove(output: Output, unit: int, generation: int) -> None:
    """Remove the files of a generation that was abandoned."""
    for name, number in _files(output, unit).items():
        if number == generation:
            output.place.remove(f"{SHARD_FOLDER}/{name}")
