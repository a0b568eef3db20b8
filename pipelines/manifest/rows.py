"""Rows and splits of a manifest, one row per video; they are checked here once and trusted everywhere else."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gare.common.addresses import is_foreign
from gare.common.errors import InputError
from gare.common.files import atomic_file, canonical_json
from gare.common.redact import first_line, names, shown
from gare.common.text import LONGEST_TEXT
from gare.schema import MANIFEST, SCHEMA_VERSION, TAKEN_FROM, VERSION_KEY

REQUIRED = ("video_id", "uri", "split", "captions")
CHECK_ROWS = 4096
NO_ROWS = "{} has no rows: a corpus needs at least one video."
CSV_SUFFIXES = frozenset({".csv", ".tsv"})
TEXT_SUFFIXES = CSV_SUFFIXES | {".jsonl", ".ndjson"}
GZIPPED = ".gz"


def text_suffix(path: str | Path) -> str:
    """Return the suffix that tells a file's format, in lower case: ``.tsv`` also for ``a.tsv.gz``."""
    name = Path(path)
    return (name.with_suffix("") if name.suffix.lower() == GZIPPED else name).suffix.lower()


def has_scheme(uri: str) -> bool:
    """Return True if a uri is an address rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", uri) is not None


def located(uri: str, root: Path) -> str:
    """Make a path below ``root`` absolute; leave a uri with a scheme, or a path of another system, unchanged."""
    if has_scheme(uri) or is_foreign(uri, root):
        return uri
    return os.path.abspath(root / uri)  # noqa: PTH100 - symlinks stay


def table_of(rows: list[dict[str, Any]], where: str) -> pa.Table:
    """Make a table of the schema MANIFEST from plain rows. Raises InputError naming ``where`` for invalid Unicode."""
    try:
        return pa.Table.from_pylist(rows, schema=MANIFEST)
    except UnicodeEncodeError as error:  # "\ud800" in JSON, or a file name in another encoding
        raise InputError(f"{where} has text that is not valid Unicode: {shown(error.object)}.") from None


def write_manifest(table: pa.Table, path: str | Path) -> None:
    """Check a table and write it atomically as Parquet with the schema version in its metadata.

    Raises InputError for the suffix of a text format, because ``load_manifest`` would then read the file as text.
    """
    if text_suffix(path) in TEXT_SUFFIXES:
        raise InputError(f"A manifest is written as Parquet; give another name than {path}, such as manifest.parquet.")
    table = checked(table, "the manifest")
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    with atomic_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def checked(table: pa.Table, where: str) -> pa.Table:
    """Convert a whole manifest to the columns and types of MANIFEST. Raises InputError naming the first fault."""
    result = in_columns(table, where)
    if not result.num_rows:
        raise InputError(NO_ROWS.format(where))
    check_rows(result, where)
    ids = VideoIds()
    ids.add(result["video_id"])
    if ids.suspects:
        check_repeated([result], ids.suspects, where)
    return result


def in_columns(table: pa.Table, where: str) -> pa.Table:
    """Convert rows to the columns and types of MANIFEST. Raises InputError naming ``where`` and the mismatch."""
    version = (table.schema.metadata or {}).get(VERSION_KEY)
    if version not in (None, str(SCHEMA_VERSION).encode()):
        version = names([version.decode(errors="replace")])
        raise InputError(f"{where} has schema version {version}; this software reads {SCHEMA_VERSION}.")
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        there = names(table.column_names) or "none"
        raise InputError(f"{where} has no column {names(missing)}; its columns are {there}.")
    unknown = [name for name in table.column_names if name not in MANIFEST.names]
    if unknown:
        raise InputError(
            f"{where} has the column {names(unknown)}, which no manifest has; "
            f"its columns may be {', '.join(MANIFEST.names)}. Put more about a video into attributes."
        )
    repeated = [name for name, count in Counter(table.column_names).items() if count > 1]
    if repeated:
        raise InputError(f"{where} has the column {names(repeated)} more than once.")
    columns = []
    for field in MANIFEST:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        if not _fits(column.type, field.type):
            raise InputError(f"{where}: the column {field.name} holds {column.type}, not {field.type}.")
        if not field.nullable and column.null_count:
            raise InputError(f"{where}: the column {field.name} is empty in {column.null_count} rows.")
        columns.append(_cast(column, field, where))
    return pa.table(columns, schema=MANIFEST)


def _cast(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    """Convert a column to a field's type. Raises InputError for invalid values, such as text that is not UTF-8."""
    try:
        column.validate(full=True)
        return column.cast(field.type)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{where}: the column {field.name} cannot be read: {first_line(error)}.") from None


def splits_of(table: pa.Table) -> dict[str, dict[str, int]]:
    """Return the number of videos and captions of each split, sorted by split name."""
    found: dict[str, dict[str, int]] = {}
    for split, captions in zip(table["split"].to_pylist(), table["captions"].to_pylist(), strict=True):
        counts = found.setdefault(split, {"videos": 0, "captions": 0})
        counts["videos"] += 1
        counts["captions"] += len(captions)
    return dict(sorted(found.items()))


def content_digest(table: pa.Table) -> str:
    """Return the SHA-256 of the rows' values, the same for CSV and Parquet of the same rows: 64 hex digits."""
    digest = hashlib.sha256()
    for row in rows_of(table):
        digest.update(canonical_json(row).encode() + b"\n")
    return digest.hexdigest()


def rows_of(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows as plain values, ``attributes`` as pairs in order, with a bounded number in memory at once."""
    for start in range(0, table.num_rows, CHECK_ROWS):
        yield from table.slice(start, CHECK_ROWS).to_pylist()


class VideoIds:
    """Detects repeated video ids in eight bytes per id, since a manifest may have millions of rows."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, ids: pa.ChunkedArray) -> None:
        """Add the ids of some rows."""
        for video_id in ids.to_pylist():
            self._hashes.append(_hash(video_id))

    @property
    def suspects(self) -> frozenset[int]:
        """The hashes that occurred more than once: of repeated ids, or of ids that collide by chance."""
        hashes = np.sort(np.frombuffer(self._hashes, np.uint64))
        return frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())


def _hash(video_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest(), "little")


def check_repeated(tables: Iterable[pa.Table], suspects: frozenset[int], where: str) -> None:
    """Raise InputError if a video id occurs twice; only ids with a suspect hash are compared."""
    counts = Counter(name for table in tables for name in table["video_id"].to_pylist() if _hash(name) in suspects)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 1} more" if len(repeated) > 1 else ""
        raise InputError(f"{where} has the video_id {shown(repeated[0])}{more} more than once; a video is one row.")


def check_rows(table: pa.Table, where: str) -> None:
    """Raise InputError for empty values, impossible clip bounds, empty captions and texts that are too long."""
    for name in ("video_id", "uri", "split"):
        if "" in table[name].to_pylist():
            raise InputError(f"{where}: the column {name} is empty in some row.")
    for row in rows_of(table):
        start, end = row["start_s"], row["end_s"]
        bounds_fit = (start is None or start >= 0) and (end is None or end > (start or 0))
        if not bounds_fit or float("inf") in (start, end):
            name = shown(row["video_id"])
            raise InputError(f"{where}: {name} has the clip {start} to {end}; it needs 0 <= start < end.")
        if any(not caption for caption in row["captions"]):
            raise InputError(f"{where}: {shown(row['video_id'])} has an empty caption.")
        _check_lengths(row, where)


def _check_lengths(row: dict[str, Any], where: str) -> None:
    attributes = [text or "" for pair in row["attributes"] or () for text in pair]
    named = {"a caption": row["captions"], "an attribute": attributes}
    named |= {name: [row[name]] for name in ("video_id", "uri", "split")}
    for what, texts in named.items():
        longest = max(map(len, texts), default=0)
        if longest > LONGEST_TEXT:
            raise InputError(
                f"{where}: {shown(row['video_id'])} has {what} of {longest:,} characters, and {LONGEST_TEXT:,} are the "
                "most; shorten it (of a caption CLIP reads no more than 77 tokens)."
            )


def _fits(there: pa.DataType, wanted: pa.DataType) -> bool:
    """Return True if a column converts without guessing; object and extension types never do."""
    if pa.types.is_null(there):
        return True
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(there) or pa.types.is_large_string(there) or pa.types.is_string_view(there))
    if pa.types.is_float64(wanted):
        return bool(pa.types.is_floating(there) or pa.types.is_integer(there))
    if pa.types.is_list(wanted):
        listed = pa.types.is_list(there) or pa.types.is_large_list(there) or pa.types.is_list_view(there)
        return listed and _fits(there.value_type, wanted.value_type)
    if pa.types.is_map(wanted):
        return pa.types.is_map(there) and _fits(there.key_type, pa.string()) and _fits(there.item_type, pa.string())
    return False


TRAIN = "train"
DEV = "dev"
TEST = "test"
NAMED = 3


def carve(video_ids: list[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """Draw each video's split from its id and ``seed`` alone; the remaining share is train.

    Neither the order of the rows nor videos added later move a video to another split, so split sizes match their
    shares only approximately. Raises InputError for invalid shares and for a split that would be empty.
    """
    if not shares or any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise InputError("Each carved split needs a share between 0 and 1, and together less than 1: dev=0.1,test=0.1.")
    if TRAIN in shares:
        raise InputError(f"{TRAIN} is what the carved splits leave over; give the shares of the others only.")
    drawn = [_draw(video_id, shares, seed) for video_id in video_ids]
    empty = [name for name in (*shares, TRAIN) if name not in drawn]
    if empty:
        raise InputError(
            f"Of {len(video_ids)} videos none falls into {', '.join(empty)}; try another --seed, or larger shares."
        )
    return drawn


def _draw(video_id: str, shares: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{video_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return TRAIN


def taken_from_train(attributes: Iterable[tuple[str, str]] | None) -> list[tuple[str, str]]:
    """Return the attributes of a dev video, marked as taken out of train."""
    return [*((name, value) for name, value in attributes or () if name != TAKEN_FROM), (TAKEN_FROM, TRAIN)]


def check_disjoint(splits: Mapping[str, Collection[str]], where: str) -> None:
    """Raise InputError, naming ids, if a video is in two splits: you cannot test on what you train on."""
    for (one, ids), (other, others) in itertools.combinations(splits.items(), 2):
        there = set(others)
        shared = [video_id for video_id in ids if video_id in there]
        if shared:
            raise InputError(f"{where}: {some(shared)} in both {one} and {other}; a video may be in one split only.")


def some(video_ids: Collection[str]) -> str:
    """Start a sentence with the number of videos and the names of the first few."""
    named = ", ".join(itertools.islice(video_ids, NAMED))
    if len(video_ids) == 1:
        return f"1 video ({named}) is"
    return f"{len(video_ids):,} videos ({named}{', ...' if len(video_ids) > NAMED else ''}) are"
