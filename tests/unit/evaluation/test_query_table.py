"""The file of ranks per query: what is written is read, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare.common.errors import InputError
from gare.evaluation.metrics.query_table import COLUMNS, KEY, Queries, QueryTable, read_queries, write_queries
from gare.evaluation.metrics.ranking import Ranking


def a_table(ties="pessimistic", shift=0.0):
    owner = np.array([0, 0, 2])
    t2v = Ranking("t2v", np.array([1, 2, 2]) + shift, owner, 3)
    v2t = Ranking("v2t", np.array([1, 1]) + shift, np.array([0, 2]), 3)
    if ties != "mean":
        t2v, v2t = (Ranking(r.name, r.ranks.astype(np.int64), r.video, r.gallery) for r in (t2v, v2t))
    captions = ["a cat", "eine Katze, größer", "a dog"]
    queries = {
        "v2t": Queries(v2t, ["x", "z"], None, [["a cat"], []], [[0.5], []]),
        "t2v": Queries(t2v, ["x", "x", "z"], captions, [["x", "y"]] * 3, [[0.75, -np.inf]] * 3),
    }
    return QueryTable("test", "abc", ties, queries)


@pytest.mark.parametrize(("ties", "shift"), [("pessimistic", 0.0), ("mean", 0.5)])
def test_what_is_written_is_read(tmp_path, ties, shift):
    table = a_table(ties, shift)
    write_queries(tmp_path / "ranks.parquet", table)
    found = read_queries(tmp_path / "ranks.parquet")
    assert (found.split, found.dataset_digest, found.ties) == ("test", "abc", ties)
    assert list(found.queries) == ["v2t", "t2v"]
    for name, queries in table.queries.items():
        there = found.queries[name]
        assert there.ranking.metrics() == queries.ranking.metrics()
        assert there.ranking.sizes() == queries.ranking.sizes()
        assert there.ranking.ranks.dtype == queries.ranking.ranks.dtype
        assert (there.video_ids, there.captions) == (queries.video_ids, queries.captions)
        assert (there.top, there.top_scores) == (queries.top, queries.top_scores)
        same = [a == b for a in queries.video_ids for b in queries.video_ids]
        assert [a == b for a in there.ranking.video for b in there.ranking.video] == same


def test_plain_pyarrow_reads_it(tmp_path):
    write_queries(tmp_path / "ranks.parquet", a_table())
    rows = pq.read_table(tmp_path / "ranks.parquet").to_pylist()
    assert rows[3] == {
        "ranking": "t2v",
        "query": 1,
        "video_id": "x",
        "caption": "eine Katze, größer",
        "rank": 2.0,
        "top": ["x", "y"],
        "top_scores": [0.75, -np.inf],
    }
    assert rows[0]["caption"] is None


def changed(table, name, values):
    at = COLUMNS.get_field_index(name)
    return table.set_column(at, COLUMNS.field(at), pa.array(values, COLUMNS.field(at).type))


def with_said(table, **said):
    metadata = {
        key: value for key, value in table.schema.metadata.items() if key.decode().removeprefix(KEY) not in said
    }
    return table.replace_schema_metadata(metadata | {KEY + k: v for k, v in said.items() if v is not None})


FOREIGN = {
    "another format": (lambda t: with_said(t, format="2"), "has format 2; this software reads 1"),
    "no metadata": (lambda t: t.replace_schema_metadata(None), "is not a table of ranks"),
    "no split": (lambda t: with_said(t, split=None), "is not a table of ranks"),
    "unknown ties": (lambda t: with_said(t, ties="lucky"), "is not a table of ranks"),
    "no gallery": (lambda t: with_said(t, gallery="[3]"), "is not a table of ranks"),
    "a gallery of nothing": (lambda t: with_said(t, gallery='{"t2v":0,"v2t":3}'), "is not a table of ranks"),
    "a column less": (lambda t: t.drop_columns(["top"]), "is not a table of ranks"),
    "a column of another type": (
        lambda t: t.set_column(4, "rank", t["rank"].cast(pa.string())), "is not a table of ranks"),
    "rankings not named": (lambda t: with_said(t, gallery='{"t2v":3}'), "of other rankings than its metadata"),
    "a ranking without rows": (lambda t: with_said(t, gallery='{"t2v":3,"v2t":3,"x":3}'), "of other rankings"),
    "a rank beyond the gallery": (lambda t: changed(t, "rank", [1, 1, 1, 4, 1]), "the rows of t2v are not queries"),
    "a rank of 0": (lambda t: changed(t, "rank", [1, 1, 1, 0, 1]), "the rows of t2v are not queries"),
    "a rank of NaN": (lambda t: changed(t, "rank", [1, 1, 1, np.nan, 1]), "the rows of t2v are not queries"),
    "half a rank": (lambda t: changed(t, "rank", [1, 1, 1, 1.5, 1]), "the rows of t2v are not queries"),
    "queries out of order": (lambda t: t.take([0, 1, 3, 2, 4]), "the rows of t2v are not queries"),
    "a query less": (lambda t: t.take([0, 1, 3, 4]), "the rows of t2v are not queries"),
    "some captions": (lambda t: changed(t, "caption", ["a"] + [None] * 4), "the rows of v2t are not queries"),
    "tops without scores": (lambda t: changed(t, "top_scores", [[]] * 5), "are not queries"),
    "more tops than any": (
        lambda t: changed(changed(t, "top", [["x"] * 11] * 5), "top_scores", [[1.0] * 11] * 5), "are not queries"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_table_of_ranks_is_one_sentence(tmp_path, change, says):
    path = tmp_path / "ranks.parquet"
    write_queries(path, a_table())
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(InputError, match=says):
        read_queries(path)


def test_files_that_are_no_parquet_or_damaged_are_one_sentence(tmp_path):
    path = tmp_path / "ranks.parquet"
    with pytest.raises(InputError, match="There is no file"):
        read_queries(path)
    for content in (b"", b"PAR1", bytes(range(256)) * 9):
        path.write_bytes(content)
        with pytest.raises(InputError, match="Cannot read"):
            read_queries(path)


def test_every_cut_of_a_file_is_one_sentence_or_reads_the_same(tmp_path):
    path = tmp_path / "ranks.parquet"
    write_queries(path, a_table())
    whole = path.read_bytes()
    for size in range(0, len(whole), 41):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_queries(path)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "ranks.parquet"
    write_queries(path, a_table())
    before = path.read_bytes()
    broken = a_table()
    broken.queries["t2v"].top.pop()
    with pytest.raises(pa.ArrowInvalid):
        write_queries(path, broken)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["ranks.parquet"]
