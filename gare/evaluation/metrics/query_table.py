"""Write and read the ranks per query of one evaluation as Parquet, so that another can be compared with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gare.common.errors import InputError
from gare.common.files import atomic_file, canonical_json
from gare.common.records import load_json
from gare.common.redact import first_line
from gare.evaluation.metrics.counting import Ties
from gare.evaluation.metrics.ranking import Ranking

RANKS_FILE = "ranks.parquet"
TOP = 10
FORMAT = 1
KEY = "gare.ranks."
SAID = ("split", "dataset_digest", "ties", "gallery")
"""Keys of the metadata besides ``format``; ``gallery`` is the size of each ranking's gallery, as JSON."""

COLUMNS = pa.schema(
    [
        pa.field("ranking", pa.string(), nullable=False),
        pa.field("query", pa.int64(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("rank", pa.float64(), nullable=False),
        pa.field("top", pa.list_(pa.string()), nullable=False),
        pa.field("top_scores", pa.list_(pa.float64()), nullable=False),
    ]
)
"""A row per query of each ranking; a ranking's queries are numbered from 0 and stored together, in order."""


@dataclass(frozen=True)
class Queries:
    """The queries of one ranking, Q of them.

    ``video_ids``: own video of each; ``captions``: None if videos are the queries. ``top``: for each query the ids of
    the videos it ranks first, or captions if videos are the queries, at most ``TOP``; ``top_scores``: their scores.
    """

    ranking: Ranking
    video_ids: list[str]
    captions: list[str] | None
    top: list[list[str]]
    top_scores: list[list[float]]


@dataclass(frozen=True)
class QueryTable:
    """The rankings of one evaluation by name, and the data they were measured on."""

    split: str
    dataset_digest: str
    ties: Ties
    queries: dict[str, Queries]


def write_queries(path: str | Path, table: QueryTable) -> None:
    """Write the table as Parquet, atomically."""
    parts = [_rows(name, queries) for name, queries in table.queries.items()]
    gallery = {name: queries.ranking.gallery for name, queries in table.queries.items()}
    said = {"format": str(FORMAT), "split": table.split, "dataset_digest": table.dataset_digest, "ties": table.ties}
    metadata = {KEY + key: value for key, value in (said | {"gallery": canonical_json(gallery)}).items()}
    with atomic_file(path) as temporary:
        pq.write_table(pa.concat_tables([COLUMNS.empty_table(), *parts]).replace_schema_metadata(metadata), temporary)


def read_queries(path: str | Path) -> QueryTable:
    """Read a table of ``write_queries``. Raises InputError for any other file.

    ``Ranking.video`` numbers the video ids that occur; it is not the column in the gallery.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; gare evaluate writes it.")
    try:
        table = pq.ParquetFile(path).read()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"Cannot read {path} as a table of ranks: {first_line(error)}.") from None
    said = _metadata(path, table)
    names, galleries, ties = pc.unique(table["ranking"]).to_pylist(), said["gallery"], said["ties"]
    if set(names) != set(galleries):
        raise InputError(f"{path} is damaged: its rows are of other rankings than its metadata say.")
    queries = {
        name: _queries(path, name, galleries[name], table.filter(pc.equal(table["ranking"], name)), ties)
        for name in names
    }
    return QueryTable(said["split"], said["dataset_digest"], ties, queries)


def _rows(name: str, queries: Queries) -> pa.Table:
    count = len(queries.ranking.ranks)
    columns = [
        pa.array([name] * count, pa.string()),
        pa.array(np.arange(count)),
        pa.array(queries.video_ids, pa.string()),
        pa.nulls(count, pa.string()) if queries.captions is None else pa.array(queries.captions, pa.string()),
        pa.array(np.asarray(queries.ranking.ranks, np.float64)),
        pa.array(queries.top, pa.list_(pa.string())),
        pa.array(queries.top_scores, pa.list_(pa.float64())),
    ]
    return pa.table(columns, schema=COLUMNS)


def _metadata(path: Path, table: pa.Table) -> dict[str, Any]:
    there = {key.decode(errors="replace"): value for key, value in (table.schema.metadata or {}).items()}
    foreign = InputError(f"{path} is not a table of ranks as gare evaluate writes it.")
    version = there.get(KEY + "format")
    if version is None:
        raise foreign
    if version != str(FORMAT).encode():
        raise InputError(f"{path} has format {version.decode(errors='replace')}; this software reads {FORMAT}.")
    try:
        said: dict[str, Any] = {key: there[KEY + key].decode() for key in SAID}
        said["gallery"] = load_json(said["gallery"])
    except (KeyError, ValueError):
        raise foreign from None
    sizes = said["gallery"].values() if isinstance(said["gallery"], dict) else [None]
    counted = all(type(size) is int and size > 0 for size in sizes)
    if not counted or said["ties"] not in get_args(Ties) or not _same_columns(table.schema):
        raise foreign
    return said


def _same_columns(schema: pa.Schema) -> bool:
    return schema.names == COLUMNS.names and all(schema.field(f.name).type.equals(f.type) for f in COLUMNS)


def _queries(path: Path, name: str, gallery: int, rows: pa.Table, ties: Ties) -> Queries:
    """Return the queries of one ranking, checked."""
    ranks = rows["rank"].to_numpy()
    if not _whole(rows) or not ((ranks >= 1) & (ranks <= gallery) & (ties == "mean" or ranks % 1 == 0)).all():
        raise InputError(f"{path} is damaged: the rows of {name} are not queries ranked in a gallery of {gallery}.")
    video_ids, captions = rows["video_id"].to_pylist(), rows["caption"].to_pylist()
    video = np.unique(np.array(video_ids, np.str_), return_inverse=True)[1].astype(np.int64)
    return Queries(
        Ranking(name, ranks if ties == "mean" else ranks.astype(np.int64), video, gallery),
        video_ids,
        None if None in captions else captions,
        rows["top"].to_pylist(),
        rows["top_scores"].to_pylist(),
    )


def _whole(rows: pa.Table) -> bool:
    """Return True if no value is missing, the queries are numbered, and each top answer has a score."""
    if any(rows[field.name].null_count for field in COLUMNS if not field.nullable):
        return False
    if rows["caption"].null_count not in {0, len(rows)}:
        return False
    if any(pc.list_flatten(rows[name]).null_count for name in ("top", "top_scores")):
        return False
    lengths = [pc.list_value_length(rows[name]).to_numpy() for name in ("top", "top_scores")]
    numbered = (rows["query"].to_numpy() == np.arange(len(rows))).all()
    return bool(numbered and (lengths[0] == lengths[1]).all() and (lengths[0] <= TOP).all())
