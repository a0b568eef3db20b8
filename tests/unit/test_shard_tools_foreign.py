"""A dataset from elsewhere is checked before it is used: whatever is wrong with it is one sentence."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gare.common.errors import InputError
from gare.common.files import file_digest
from gare.common.storage import Folder
from gare.data.shards import ShardSet
from gare.schema import SHARD
from pipelines.dataset.layout import dataset_digest
from pipelines.dataset.tools.check import stat
from pipelines.dataset.tools.dataset import open_dataset
from pipelines.dataset.tools.merge import merge
from pipelines.dataset.tools.split import split, whole
from tests.made_shards import made_row, make_dataset, stored_rows

FIRST = "unit-000000-00.arrow"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    rows = [made_row(f"a{n}", "test" if n == 1 else "train", attributes=[("k", "v")]) for n in range(4)]
    return make_dataset(tmp_path_factory.mktemp("foreign") / "a", rows)


@pytest.fixture
def folder(made, tmp_path):
    """A copy, to be damaged: only what a download has, without ledger and recipe."""
    (tmp_path / "a").mkdir()
    shutil.copytree(made / "shards", tmp_path / "a/shards")
    shutil.copy(made / "dataset.json", tmp_path / "a")
    return tmp_path / "a"


def edit(folder, change):
    path = folder / "dataset.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def first(values):
    return values["shards"][0]


def rewrite(folder, change=lambda rows: None, schema=None, metadata=None, signed=True):  # noqa: ARG005
    """Write the first shard anew with other rows and, unless asked not to, all digests and sizes fitting again."""
    path = folder / "shards" / FIRST
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    rows = table.to_pylist()
    change(rows)
    schema = (schema or table.schema).with_metadata({**table.schema.metadata, **(metadata or {})})
    with pa.ipc.new_file(path, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    if signed:
        edit(folder, lambda v: first(v).update(bytes=path.stat().st_size, sha256=file_digest(path), rows=len(rows)))
        edit(folder, lambda v: v["totals"].update(bytes=sum(shard["bytes"] for shard in v["shards"])))
        dataset = open_dataset(Folder.at(folder))
        edit(folder, lambda v: v.update(digest=dataset_digest(dataset.recipe_digest, dataset.shards)))


def flip(folder):
    path = folder / "shards" / FIRST
    path.write_bytes(path.read_bytes().replace(b"h264", b"hevc", 1))


def shorten(folder):
    path = folder / "shards" / FIRST
    path.write_bytes(path.read_bytes()[:-9])


def row_with(**values):
    return lambda folder: rewrite(folder, lambda rows: rows[0].update(values))


def other_schema(folder):
    schema = SHARD.set(3, pa.field("attributes", pa.string()))
    rewrite(folder, lambda rows: [row.update(attributes="x") for row in rows], schema)


def nullable(name):
    """The schema with a column that may be null, although the one of shards may not."""
    at = SHARD.get_field_index(name)
    return SHARD.set(at, SHARD.field(name).with_nullable(True))


def null_in(name):
    """A shard of the right schema whose column has a null all the same."""

    def break_it(folder):
        path = folder / "shards" / FIRST
        table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
        rows = table.to_pylist()
        rows[0][name] = None
        column = pa.Table.from_pylist(rows, schema=nullable(name))[name].combine_chunks()
        arrays = [column if field.name == name else table[field.name].combine_chunks() for field in SHARD]
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=table.schema))
        edit(folder, lambda v: first(v).update(bytes=path.stat().st_size, sha256=file_digest(path)))

    return break_it


DAMAGES = [
    (shutil.rmtree, "There is no folder"),
    (lambda f: (f / "dataset.json").unlink(), "has no dataset.json"),
    (lambda f: (f / "dataset.json").write_bytes(b"\xff"), "is not UTF-8 text"),
    (lambda f: (f / "dataset.json").write_text("[1]"), "is damaged"),
    (lambda f: edit(f, lambda v: v.update(schema_version=2)), "has schema version 2"),
    (lambda f: edit(f, lambda v: v["totals"].update(frames=float("nan"))), "is damaged"),
    (lambda f: edit(f, lambda v: v.update(totals=[])), "is damaged"),
    (lambda f: edit(f, lambda v: first(v).update(file="../dataset.json")), "is damaged"),
    (lambda f: edit(f, lambda v: first(v).update(file="/etc/passwd")), "is damaged"),
    (lambda f: edit(f, lambda v: first(v).update(rows="3")), "shards.0.rows"),
    (lambda f: edit(f, lambda v: v["shards"].append(first(v))), "lists a shard twice"),
    (lambda f: edit(f, lambda v: v["recipe"].update(max_frames=2)), "The recipe in"),
    (lambda f: edit(f, lambda v: v["recipe"].update(policy="best")), "The recipe in"),
    (lambda f: edit(f, lambda v: v.update(recipe_digest="0" * 16)), "The recipe in"),
    (lambda f: (f / "shards" / FIRST).unlink(), "is missing"),
    (lambda f: (f / "shards" / FIRST).write_bytes(b""), "has 0 bytes, not"),
    (shorten, "bytes, not"),
    (flip, "another SHA-256"),
    (lambda f: edit(f, lambda v: first(v).update(rows=2)), "rows, not 2 as recorded"),
    (other_schema, "does not have the columns of a shard"),
    (lambda f: rewrite(f, metadata={b"gare.schema_version": b"9"}), "another schema version"),
    (lambda f: rewrite(f, metadata={b"gare.recipe_digest": b"x"}), "another recipe"),
    (lambda f: rewrite(f, metadata={b"gare.work_unit": b"7"}), "is not of work unit 0"),
    (null_in("frames"), "values of frames are missing"),
    (null_in("video_id"), "values of video_id are missing"),
    (row_with(captions=[None]), "values of captions are missing"),
    (row_with(timestamps_s=[0.0, None]), "values of timestamps_s are missing"),
    (row_with(frames=[b"short"] * 2), "a frame is not of 8 x 8 pixels"),
    (row_with(height=16), "which the recipe does not make"),
    (row_with(height=-8, width=-8), "which the recipe does not make"),
    (row_with(frame_codec="jpeg"), "the recipe says raw"),
    (row_with(timestamps_s=[0.0]), "but 1 timestamps"),
    (row_with(timestamps_s=[1.0, 0.0]), "do not rise"),
    (row_with(video_id="a1"), "more than once"),
    (row_with(split="dev"), "counts other splits"),
    (lambda f: edit(f, lambda v: v["splits"].update(dev={"videos": 0, "captions": 0})), "counts other splits"),
    (lambda f: edit(f, lambda v: v["totals"].update(ok=9)), "counts 9 as ok"),
    (lambda f: edit(f, lambda v: v.pop("totals")), "counts None as ok"),
    (lambda f: edit(f, lambda v: v.update(digest="0" * 16)), "another digest than its recipe and shards give"),
]  # fmt: skip


@pytest.mark.parametrize(("break_it", "sentence"), DAMAGES, ids=[sentence for _, sentence in DAMAGES])
def test_a_damaged_dataset_is_refused_before_anything_is_written(folder, tmp_path, break_it, sentence):
    break_it(folder)
    for use in (
        lambda: merge([Folder.at(folder)], Folder.at(tmp_path / "out")),
        lambda: split(Folder.at(folder), Folder.at(tmp_path / "out"), whole()),
    ):
        with pytest.raises(InputError) as caught:
            use()
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
    try:
        found = stat(Folder.at(folder), verify=True)["problems"]
    except InputError as error:
        found = [str(error)]
    assert any(sentence in problem for problem in found)


def test_a_sound_download_needs_nothing_else(folder, tmp_path):
    merge([Folder.at(folder)], Folder.at(tmp_path / "out"))
    assert stored_rows(tmp_path / "out") == stored_rows(folder)
    assert stat(Folder.at(folder), verify=True)["problems"] == []


@pytest.mark.parametrize("name", ["frames", "captions", "uri"])
def test_training_refuses_missing_values_too(folder, name):
    null_in(name)(folder)
    with pytest.raises(InputError, match=f"values of {name} are missing"):
        ShardSet(folder)


def test_every_problem_is_listed(folder):
    rewrite(folder, lambda rows: [row.update(height=16, timestamps_s=[0.0]) for row in rows])
    (folder / "shards/unit-000001-00.arrow").unlink()
    found = stat(Folder.at(folder), verify=True)["problems"]
    assert len(found) == 3 * 3 + 1  # of three rows: the shape, the frames' bytes, the times
    assert len(stat(Folder.at(folder))["problems"]) == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.text(max_size=5), inside, max_size=2),
    max_leaves=4,
)
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(st.data())
def test_no_dataset_file_ends_in_anything_but_a_sentence(made, folder, data):
    tree = json.loads((made / "dataset.json").read_text())
    node = tree
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(values)
        break
    (folder / "dataset.json").write_text(json.dumps(tree))
    with suppress(InputError):
        json.dumps(stat(Folder.at(folder), verify=True), default=str)


@quick
@given(st.integers(0), st.binary(min_size=1, max_size=8))
def test_no_change_of_a_shard_goes_unnoticed_or_ends_the_process(made, folder, position, junk):
    path = folder / "shards" / FIRST
    data = (made / "shards" / FIRST).read_bytes()
    at = position % len(data)
    changed = data[:at] + junk + data[at + len(junk) :]
    path.write_bytes(changed)
    shutil.copy(made / "dataset.json", folder)
    found = stat(Folder.at(folder), verify=True)["problems"]
    assert (found == []) == (changed == data)
    edit(folder, lambda v: first(v).update(bytes=len(changed), sha256=file_digest(path)))
    for problem in stat(Folder.at(folder), verify=True)["problems"]:
        assert "\n" not in problem
