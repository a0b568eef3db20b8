"""Process one work unit from its manifest rows to its shards and ledger part, inside a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from itertools import chain

from gare.common.dataset_file import read_shard
from gare.common.errors import InputError
from gare.schema import SHARD_FOLDER
from pipelines.dataset.layout import Output
from pipelines.dataset.ledger import Ledger, Part, write_ledger
from pipelines.dataset.shard_rows import Row, write_unit
from pipelines.decode.isolated.decoder import shared_decoder
from pipelines.prepare.attempts import Attempt, Decodes, Tries, UnitCounts, attempts
from pipelines.prepare.repair_unit import repair_unit


def process_unit(
    output: Output,
    unit: int,
    decoder: Decodes | None = None,
    again: Collection[int] | None = None,
    *,
    repair: bool = False,
    tries: Tries | None = None,
) -> UnitCounts:
    """Decode a unit's videos, write its shards, then its ledger part. Repeating this gives the same files.

    ``decoder``: this process's own if None. ``again``: the rows (by position) of a finished unit to decode once more;
    the others are taken from its shards, and so is one that was ok before and fails now. ``repair``: the unit's files
    are damaged, see ``pipelines.prepare.repair_unit``. ``tries``: function that tries the rows, instead of ``decoder``.
    """
    tries = tries or partial(attempts, decoder=decoder or shared_decoder())
    if repair:
        return repair_unit(output, unit, tries)
    rows = dict(enumerate(output.rows(unit)))
    if again is not None:
        return _redo(output, unit, tries, {position: rows[position] for position in sorted(again)})
    entries = write_unit(output, unit, tries(rows, output.recipe), generation=0)
    return UnitCounts(unit, len(entries), sum(entry["status"] == "failed" for entry in entries))


def _redo(output: Output, unit: int, tries: Tries, again: Mapping[int, Row]) -> UnitCounts:
    """Decode some rows of a finished unit once more. Its files all change at the same moment."""
    part = Ledger(output).part(unit)
    before, tally = part.table.to_pylist(), Counter[str]()
    made, failures = tries(again, output.recipe), list[Attempt]()
    for one in made:
        if one[1] is not None:
            merged = _merged(before, again, chain(failures, [one], made), _stored(output, part), tally)
            write_unit(output, unit, merged, part.generation + 1)
            break
        failures.append(one)  # failures hold no frames
    else:
        merged = _merged(before, again, iter(failures), None, tally)
        write_ledger(output, unit, [entry for entry, _ in merged], part.shards, part.generation)
    return UnitCounts(unit, len(again), tally["failed"], tally["kept"])


def _merged(
    before: list[Row],
    again: Collection[int],
    made: Iterator[Attempt],
    stored: Iterator[Row] | None,
    tally: Counter[str],
) -> Iterator[Attempt]:
    """Replace old attempts with new ones unless these are worse; ``stored``: None if shard rows are not needed."""
    for position, entry in enumerate(before):
        kept = next(stored) if stored is not None and entry["status"] == "ok" else None
        if position not in again:
            yield entry, kept
            continue
        new, fresh = next(made)
        attempts_so_far = new["attempts"] + entry["attempts"]
        tally["failed"] += fresh is None
        if fresh is None and entry["status"] == "ok":
            tally["kept"] += 1
            yield entry | {"attempts": attempts_so_far}, kept
        else:
            yield new | {"attempts": attempts_so_far}, fresh


def _stored(output: Output, part: Part) -> Iterator[Row]:
    """Yield the rows of a unit's shards in order. Raises InputError for a shard that has changed."""
    for shard in part.shards:
        if output.place.sha256(f"{SHARD_FOLDER}/{shard.file}") != shard.sha256:
            raise InputError(f"The shard {shard.file} has another SHA-256 than its ledger part says; remove it.")
        with output.place.source(f"{SHARD_FOLDER}/{shard.file}") as source:
            table = read_shard(source, recipe_digest=output.digest, rows=shard.rows, name=shard.file)
            for position in range(table.num_rows):
                yield table.slice(position, 1).to_pylist()[0]
