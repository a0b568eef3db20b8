"""The ledger: a Parquet part per work unit, written last, and ``dataset.json``, which sums up all parts."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gare.common.errors import InputError, RunError
from gare.common.files import canonical_json
from gare.common.parquet import BoundedParquet
from gare.common.records import load_json
from gare.common.storage import Folder
from gare.schema import (
    DATASET_FILE,
    LEDGER,
    LEDGER_FOLDER,
    RECIPE_KEY,
    SCHEMA_VERSION,
    SHARD_FOLDER,
    VERSION_KEY,
    stamped,
)
from pipelines.dataset.layout import RECIPE_FILE, Output, ShardFile, dataset_digest, listed_shards, stated

SHARDS_KEY = b"gare.shards"
GENERATION_KEY = b"gare.generation"
SAME_AS_MANIFEST = ("video_id", "uri", "split")
READERS = 16
"""Threads that read ledger parts ahead: object stores take tens of milliseconds, and there may be 100,000 parts."""


@dataclass(frozen=True)
class Part:
    """A finished unit: its ledger rows (schema LEDGER), its shards, and how often some of its rows were done again."""

    table: pa.Table
    shards: list[ShardFile]
    generation: int


def write_ledger(
    output: Output, unit: int, rows: list[dict[str, Any]], shards: Iterable[ShardFile], generation: int = 0
) -> None:
    """Commit a unit by writing its ledger part, which names its shards."""
    schema = stamped(LEDGER, recipe_digest=output.digest, unit=unit)
    listed = canonical_json([asdict(shard) for shard in shards]).encode()
    more = {SHARDS_KEY: listed, GENERATION_KEY: str(generation).encode()}
    schema = schema.with_metadata({**schema.metadata, **more})
    with output.place.writing(output.ledger_name(unit)) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, write_page_checksum=True)


class Unfinished(InputError):  # noqa: N818 - a state of the unit
    """A unit is not finished; the message says why."""


class Absent(Unfinished):
    """A unit without a ledger part."""


class Damaged(Unfinished):
    """The files of a finished unit have changed. ``part``: the contents of its ledger part, if still readable."""

    def __init__(self, message: str, part: Part | None = None) -> None:
        super().__init__(message)
        self.part = part


class Ledger:
    """The current ledger parts of a folder; the shards' sizes are listed once.

    Storage that cannot be read is always an InputError, never an unfinished unit.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._sizes = output.place.sizes(SHARD_FOLDER)

    def state(self, unit: int) -> Part | Unfinished:
        """Return a unit's part, or why it is not finished."""
        return self._judged(unit, self._content(unit))

    def each(self) -> Iterator[Part | Unfinished]:
        """Yield the ``state`` of every unit in order; threads read remote files ahead."""
        units = iter(range(self._output.units()))
        if self._output.place.is_local:
            yield from map(self.state, units)
            return
        with ThreadPoolExecutor(READERS) as pool:
            try:
                ahead = deque((unit, pool.submit(self._content, unit)) for unit in islice(units, 4 * READERS))
                while ahead:
                    unit, content = ahead.popleft()
                    ahead.extend((more, pool.submit(self._content, more)) for more in islice(units, 1))
                    yield self._judged(unit, content.result())
            finally:
                pool.shutdown(cancel_futures=True)

    def part(self, unit: int) -> Part:
        """Return a finished unit's part. Raises Unfinished with the reason otherwise.

        A unit is finished if the part carries this recipe and covers exactly the unit's manifest rows, and its shards
        exist in full size.
        """
        state = self.state(unit)
        if isinstance(state, Unfinished):
            raise state
        return state

    def _content(self, unit: int) -> bytes | None:
        """Return the bytes of a ledger part; None if there is none."""
        try:
            return self._output.place.read_bytes(self._output.ledger_name(unit))
        except FileNotFoundError:
            return None

    def _judged(self, unit: int, content: bytes | None) -> Part | Unfinished:
        name = self._output.place.named(self._output.ledger_name(unit))
        if content is None:
            return Absent(f"Unit {unit} has no ledger part {name}.")
        try:
            part = self._checked(unit, name, _table(name, content))
        except Damaged as damaged:
            return damaged
        for shard in part.shards:
            there, size = self._output.place.named(f"{SHARD_FOLDER}/{shard.file}"), self._sizes.get(shard.file)
            if size is None:
                return Damaged(f"The shard {there} is missing.", part)
            if size != shard.bytes:
                return Damaged(f"The shard {there} has {size} bytes, not {shard.bytes} as recorded.", part)
        return part

    def _checked(self, unit: int, name: str, table: pa.Table) -> Part:
        metadata = table.schema.metadata or {}
        if metadata.get(RECIPE_KEY) != self._output.digest.encode():
            raise Damaged(f"The ledger part {name} was made by another recipe than {RECIPE_FILE} says.")
        if metadata.get(VERSION_KEY) != str(SCHEMA_VERSION).encode() or not table.schema.equals(LEDGER):
            raise Damaged(f"The ledger part {name} has another schema version or other columns.")
        shards, generation = _listed(name, metadata)
        batch = self._output.batch(unit)
        if not all(table[column].combine_chunks().equals(batch.column(column)) for column in SAME_AS_MANIFEST):
            raise Damaged(f"The ledger part {name} does not hold the rows of the manifest, in their order.")
        return Part(table, shards, generation)


def _table(name: str, content: bytes) -> pa.Table:
    try:
        table = BoundedParquet(BytesIO(content), name, page_checksum_verification=True).read()
        table.validate(full=True)
    except (InputError, OSError, ValueError, pa.ArrowException) as error:  # a ValueError: names that are not UTF-8
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Damaged(f"The ledger part {name} cannot be read: {reason}.") from None
    return table


def read_ledger(output: Output, unit: int) -> tuple[list[dict[str, Any]], list[ShardFile]] | None:
    """Read one unit's ledger rows and shards; None unless the unit is finished."""
    state = Ledger(output).state(unit)
    return None if isinstance(state, Unfinished) else (state.table.to_pylist(), state.shards)


def remove_leftovers(output: Output, unfinished: Collection[int]) -> None:
    """Remove the files that an interrupted run left of the unfinished units."""
    for folder in (SHARD_FOLDER, LEDGER_FOLDER):
        for name in output.place.names(folder):
            unit = re.match(r"\.?unit-(\d{6,})(?!\d)", name)
            if unit is not None and int(unit[1]) in unfinished:
                output.place.remove(f"{folder}/{name}")


def remove_superseded(output: Output, listed: Collection[str]) -> None:
    """Remove shards that no ledger part names any more: earlier generations of units that were done again."""
    for name in output.place.names(SHARD_FOLDER):
        if name.lstrip(".").startswith("unit-") and name not in listed:
            output.place.remove(f"{SHARD_FOLDER}/{name}")


def _listed(name: str, metadata: Mapping[bytes, bytes]) -> tuple[list[ShardFile], int]:
    try:
        generation = metadata.get(GENERATION_KEY, b"0").decode("ascii")
        if re.fullmatch(r"\d{1,6}", generation):
            return listed_shards(load_json(metadata[SHARDS_KEY])), int(generation)
    except (KeyError, ValueError):
        pass
    raise Damaged(f"The ledger part {name} does not list its shards.")


COUNTED = ["status", "reason", "frames", "notes", "split"]


def once_finished(place: Folder) -> dict[int, list[ShardFile]] | None:
    """Return the shards of each unit by the dataset manifest; empty if there is none, None if it is damaged."""
    text = place.read_text(DATASET_FILE)
    if text is None:
        return {}
    try:
        shards = listed_shards(load_json(text)["shards"])
    except (ValueError, KeyError, TypeError):
        return None
    units: dict[int, list[ShardFile]] = {}
    for shard in shards:
        units.setdefault(shard.unit, []).append(shard)
    return units


def dataset_manifest(output: Output) -> dict[str, Any]:
    """Make the dataset manifest from the ledger parts alone; it is the same for any number of workers and reruns.

    Raises RunError naming an unfinished unit.
    """
    outcomes: dict[str, Counter[str]] = {"filtered": Counter(), "failed": Counter()}
    splits: dict[str, dict[str, int]] = {}
    shards: list[ShardFile] = []
    rows, ok, frames, notes = 0, 0, 0, Counter[str]()
    for unit, part in enumerate(Ledger(output).each()):
        if isinstance(part, Unfinished):
            raise RunError(f"Unit {unit} of {output.place} was not finished: {part} Run the same command again.")
        shards.extend(part.shards)
        captions = pc.list_value_length(output.batch(unit).column("captions")).to_pylist()
        for entry, number in zip(part.table.select(COUNTED).to_pylist(), captions, strict=True):
            rows += 1
            if entry["status"] != "ok":
                outcomes[entry["status"]][entry["reason"]] += 1
                continue
            ok, frames = ok + 1, frames + entry["frames"]
            notes.update(entry["notes"])
            split = splits.setdefault(entry["split"], {"videos": 0, "captions": 0})
            split["videos"] += 1
            split["captions"] += number
    values = dataset_values(
        stated(output.recipe, output.lacking), output.digest, shards, splits,
        {"rows": rows, "ok": ok, **outcomes, "notes": notes, "frames": frames},
    )  # fmt: skip
    return values | {"manifest_sha256": output.manifest_sha256}


def dataset_values(
    recipe: Mapping[str, Any],
    recipe_digest: str,
    shards: Sequence[ShardFile],
    splits: Mapping[str, Any],
    totals: Mapping[str, Any],
) -> dict[str, Any]:
    """Make the content of ``dataset.json``. ``totals``: all but ``bytes``; counts by name may come in any order."""
    counted = {name: dict(sorted(of.items())) if isinstance(of, Mapping) else of for name, of in totals.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe,
        "recipe_digest": recipe_digest,
        "digest": dataset_digest(recipe_digest, shards),
        "shards": [asdict(shard) for shard in shards],
        "totals": counted | {"bytes": sum(shard.bytes for shard in shards)},
        "splits": dict(sorted(splits.items())),
    }
