"""What the data job does with a folder that is there already: goes on, grows, tries failures again, sees changes."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gare.common import ray_cluster
from gare.common.errors import InputError, RunError
from gare.common.files import file_digest
from gare.common.nodes import Node
from gare.config.prepare import PrepareConfig
from gare.data.shards import ShardSet
from gare.schema import MANIFEST
from pipelines.dataset import shard_rows
from pipelines.dataset.ledger import Absent, Ledger, Part
from pipelines.dataset.manifest_file import _cut
from pipelines.dataset.opening import existing_output, open_output
from pipelines.decode.isolated.decoder import Decoder
from pipelines.manifest import load as manifest_reading
from pipelines.manifest import rows as manifest_rows
from pipelines.manifest.load import stream_manifest
from pipelines.manifest.rows import content_digest, write_manifest
from pipelines.prepare import job as shards
from pipelines.prepare import ray_units
from pipelines.prepare.unit_tasks import UnitTask
from tests.prepared import make_sources
from tests.videos import make_video

RUN = shards.run_units
RECIPE = PrepareConfig(max_frames=3, short_side=32, crop=32, unit_videos=2)


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Units are done here, one after the other, and the uris that were decoded are kept."""
    decoded = []

    class Counting(Decoder):
        def decode_clips(self, uri, **rest):
            decoded.append(Path(uri).name)
            return super().decode_clips(uri, **rest)

    with Counting() as decoder:

        def run(output, todo, workers, decode_on, work):
            for task in todo:
                yield work(output, task.unit, decoder, again=task.again, repair=bool(task.damage))

        monkeypatch.setattr(shards, "run_units", run)
        monkeypatch.setattr(shards, "check_somewhere", lambda _: None)
        yield decoded


@pytest.fixture
def sources(tmp_path):
    return make_sources(tmp_path / "videos")


def row(name, sources, **more):
    return {"video_id": name, "uri": str(sources / f"{name}.mp4"), "split": "train", "captions": [f"a {name}"]} | more


def manifest(sources, *names, rows=()):
    path = sources.parent / f"{len(list(sources.parent.iterdir()))}.parquet"
    rows = [row(name, sources) for name in names] + list(rows)
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), path)
    return path


def contents(folder):
    return {f.name: file_digest(f) for f in sorted((folder / "shards").iterdir())}


def stored(folder):
    return [video.video_id for video in ShardSet(folder).split("train").videos]


def ledger(folder):
    output = existing_output(folder)
    return {r["video_id"]: r for unit in range(output.units()) for r in Ledger(output).part(unit).table.to_pylist()}


# Growing


def test_new_rows_add_shards_and_leave_the_old_ones_alone(tmp_path, sources, in_process):
    out = tmp_path / "out"
    shards.prepare(manifest(sources, "a", "b", "c"), out, RECIPE)
    before = {f.name: (f.stat().st_mtime_ns, file_digest(f)) for f in (out / "shards").iterdir()}
    for name in ("d", "e"):
        make_video(sources / f"{name}.mp4", frames=30)
    in_process.clear()
    grown = manifest(sources, "a", "d", "b", "c", "e")
    report = shards.prepare(grown, out, RECIPE)
    assert (report.videos, report.units_skipped) == (2, 2)
    assert in_process == ["d.mp4", "e.mp4"]
    assert {
        f.name: (f.stat().st_mtime_ns, file_digest(f)) for f in (out / "shards").iterdir()
    }.items() >= before.items()
    assert stored(out) == ["a", "b", "c", "d", "e"]
    assert shards.prepare(grown, out, RECIPE).videos == 0
    table = pa.ipc.open_file(str(out / "manifest.arrow")).read_all()
    assert content_digest(table) == existing_output(out).manifest_sha256


def test_a_corpus_that_grew_equals_one_that_was_always_so_long(tmp_path, sources):
    shards.prepare(manifest(sources, "a", "b"), tmp_path / "grown", RECIPE)
    whole = manifest(sources, "a", "b", "c", "bad")
    shards.prepare(whole, tmp_path / "grown", RECIPE)
    shards.prepare(whole, tmp_path / "whole", RECIPE)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    assert file_digest(tmp_path / "grown/dataset.json") == file_digest(tmp_path / "whole/dataset.json")


def test_readers_see_the_old_dataset_until_the_new_one_is_whole(tmp_path, sources, monkeypatch):
    out = tmp_path / "out"
    shards.prepare(manifest(sources, "a", "b"), out, RECIPE)
    monkeypatch.setattr(shards, "run_units", lambda *_: (_ for _ in ()).throw(RunError("killed")))
    with pytest.raises(RunError, match="killed"):
        shards.prepare(manifest(sources, "a", "b", "c"), out, RECIPE)
    assert stored(out) == ["a", "b"]


def test_growth_killed_before_the_recipe_names_the_new_manifest_goes_on(tmp_path, sources):
    out = tmp_path / "out"
    shards.prepare(manifest(sources, "a", "b"), out, RECIPE)
    recipe = (out / "recipe.json").read_bytes()
    grown = manifest(sources, "a", "b", "c")
    with shards.open_job(grown, out, RECIPE):
        pass
    (out / "recipe.json").write_bytes(recipe)
    assert shards.prepare(grown, out, RECIPE).videos == 1
    assert stored(out) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("names", "rows", "named"),
    [
        (("a",), [], "'b'"),
        (("a",), [{"captions": ["other"]}], "'b'"),
    ],
    ids=["removed", "changed"],
)
def test_a_row_that_is_not_as_it_was_is_refused_by_name(tmp_path, sources, names, rows, named):
    shards.prepare(manifest(sources, "a", "b"), tmp_path / "out", RECIPE)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=f"its row {named} was changed in this one, or removed"):
        shards.prepare(
            manifest(sources, *names, rows=[row("b", sources, **more) for more in rows]), tmp_path / "out", RECIPE
        )
    assert contents(tmp_path / "out") == before
    assert stored(tmp_path / "out") == ["a", "b"]


def test_a_manifest_in_another_order_is_the_same_one(tmp_path, sources):
    shards.prepare(manifest(sources, "a", "b", "c"), tmp_path / "out", RECIPE)
    before = contents(tmp_path / "out")
    assert shards.prepare(manifest(sources, "c", "a", "b"), tmp_path / "out", RECIPE).videos == 0
    assert contents(tmp_path / "out") == before


# Failures


def test_retry_failed_decodes_the_failures_alone_and_gives_what_a_first_run_would(tmp_path, sources, in_process):
    out = tmp_path / "out"
    listed = manifest(sources, "a", "bad", "b", "c")
    shards.prepare(listed, out, RECIPE)
    shutil.copy(sources / "c.mp4", sources / "bad.mp4")
    assert shards.prepare(listed, out, RECIPE).videos == 0
    in_process.clear()
    report = shards.prepare(listed, out, RECIPE, retry_failed=True)
    assert (report.videos, report.units_skipped, report.totals["ok"]) == (1, 1, 4)
    assert in_process == ["bad.mp4"]
    assert stored(out) == ["a", "bad", "b", "c"]
    assert (ledger(out)["bad"]["attempts"], ledger(out)["a"]["attempts"]) == (2, 1)
    shards.prepare(listed, tmp_path / "first", RECIPE)
    assert sorted(contents(out).values()) == sorted(contents(tmp_path / "first").values())
    assert ShardSet(out).digest == ShardSet(tmp_path / "first").digest
    assert len(contents(out)) == 2  # the shard of the first try is gone


def test_a_video_that_fails_again_changes_no_shard(tmp_path, sources):
    listed = manifest(sources, "a", "bad")
    shards.prepare(listed, tmp_path / "out", RECIPE)
    before = contents(tmp_path / "out")
    shards.prepare(listed, tmp_path / "out", RECIPE, retry_failed=True)
    assert contents(tmp_path / "out") == before
    assert ledger(tmp_path / "out")["bad"]["attempts"] == 2


@pytest.mark.parametrize("moment", ["write_ledger", "remove_superseded"])
def test_a_retry_killed_at_any_moment_loses_nothing(tmp_path, sources, monkeypatch, moment):
    out = tmp_path / "out"
    listed = manifest(sources, "a", "bad")
    shards.prepare(listed, out, RECIPE)
    shutil.copy(sources / "c.mp4", sources / "bad.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(shard_rows if moment == "write_ledger" else shards, moment, _killed)
        with pytest.raises(KeyboardInterrupt):
            shards.prepare(listed, out, RECIPE, retry_failed=True)
    assert stored(out) == ["a"] if moment == "write_ledger" else ["a", "bad"]
    (sources / "a.mp4").unlink()  # what is stored is kept, not made anew
    shards.prepare(listed, out, RECIPE, retry_failed=True)
    assert stored(out) == ["a", "bad"]
    assert len(contents(out)) == 1


def _killed(*_):
    raise KeyboardInterrupt


def test_a_damaged_shard_is_not_carried_into_the_next_generation(tmp_path, sources):
    listed = manifest(sources, "a", "bad")
    shards.prepare(listed, tmp_path / "out", RECIPE)
    shutil.copy(sources / "c.mp4", sources / "bad.mp4")
    path = next((tmp_path / "out/shards").iterdir())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="another SHA-256"):
        shards.prepare(listed, tmp_path / "out", RECIPE, retry_failed=True)


# Sources


def test_a_changed_source_is_refused_redone_or_ignored_as_asked(tmp_path, sources, in_process):
    out = tmp_path / "out"
    listed = manifest(sources, "a", "b", "c")
    shards.prepare(listed, out, RECIPE)
    before = contents(out)
    shutil.copy(sources / "c.mp4", sources / "b.mp4")
    with pytest.raises(InputError, match=r"A source was changed since .* 'b' first .* bytes then, .* --changed redo"):
        shards.prepare(listed, out, RECIPE)
    assert shards.prepare(listed, out, RECIPE, changed="ignore").videos == 0
    assert contents(out) == before
    in_process.clear()
    assert shards.prepare(listed, out, RECIPE, changed="redo").videos == 1
    assert in_process == ["b.mp4"]
    shards.prepare(listed, tmp_path / "first", RECIPE)
    assert sorted(contents(out).values()) == sorted(contents(tmp_path / "first").values())


def test_a_source_that_was_only_touched_or_is_gone_is_unchanged(tmp_path, sources):
    listed = manifest(sources, "a", "b")
    shards.prepare(listed, tmp_path / "out", RECIPE)
    os.utime(sources / "a.mp4", ns=(1, 1))
    (sources / "b.mp4").unlink()
    assert shards.prepare(listed, tmp_path / "out", RECIPE).videos == 0


def test_a_source_of_the_same_size_with_other_bytes_is_changed(tmp_path, sources):
    listed = manifest(sources, "a")
    shards.prepare(listed, tmp_path / "out", RECIPE)
    content = bytearray((sources / "a.mp4").read_bytes())
    content[-1] ^= 1
    (sources / "a.mp4").write_bytes(content)
    os.utime(sources / "a.mp4", ns=(1, 1))
    with pytest.raises(InputError, match="the same size, another SHA-256"):
        shards.prepare(listed, tmp_path / "out", RECIPE)


# Manifests of any length


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 5))
def test_units_are_cut_alike_whatever_the_pieces(lengths, size):
    ids = iter(range(100))
    rows = [[{"video_id": str(next(ids)), "uri": "x", "split": "s", "captions": []} for _ in range(n)] for n in lengths]
    tables = [pa.Table.from_pylist(piece, MANIFEST) for piece in rows]
    units = [batch.column("video_id").to_pylist() for batch in _cut(tables, size)]
    flat = [r["video_id"] for piece in rows for r in piece]
    assert units == [flat[start : start + size] for start in range(0, len(flat), size)]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_manifest_is_read_in_pieces(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(manifest_reading, "CHECK_ROWS", 3)
    monkeypatch.setattr("gare.common.parquet.BATCH_ROWS", 3)
    table = pa.Table.from_pylist([row(str(n), tmp_path) for n in range(8)], MANIFEST)
    path = tmp_path / f"m{suffix}"
    if suffix == ".parquet":
        write_manifest(table, path)
    else:
        rows = [row(str(n), tmp_path) for n in range(8)]
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    pieces = list(stream_manifest(path))
    assert max(piece.num_rows for piece in pieces) == 3
    assert content_digest(pa.concat_tables(pieces)) == content_digest(table)


@pytest.mark.parametrize("hashed", [manifest_rows._hash, len], ids=["hash", "all collide"])
def test_a_repeated_id_is_found_across_pieces_and_never_by_a_collision(tmp_path, monkeypatch, hashed):
    monkeypatch.setattr(manifest_reading, "CHECK_ROWS", 2)
    monkeypatch.setattr(manifest_rows, "_hash", hashed)
    path = tmp_path / "m.jsonl"
    lines = [f'{{"video_id": "{name}", "uri": "x.mp4", "split": "s", "captions": []}}\n' for name in "abcde"]
    path.write_text("".join(lines))
    assert sum(piece.num_rows for piece in stream_manifest(path)) == 5
    path.write_text("".join([*lines, lines[0]]))
    with pytest.raises(InputError, match="the video_id 'a' more than once"):
        list(stream_manifest(path))


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_what_is_wrong_with_a_short_manifest_is_known_before_a_folder_is_made(tmp_path, name):
    path, twice = tmp_path / name, [{"video_id": "a", "uri": "x", "split": "s", "captions": []}] * 2
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(twice, MANIFEST), path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in twice))
    with pytest.raises(InputError, match="more than once"):
        shards.prepare(path, tmp_path / "out", RECIPE)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_an_output_travels_without_its_open_file(tmp_path, sources):
    output = open_output(tmp_path / "out", pa.Table.from_pylist([row("a", sources)], MANIFEST), RECIPE)
    assert output.units() == 1
    assert "_units" not in copy.copy(output).__dict__
    assert copy.copy(output).rows(0) == output.rows(0)


def test_a_ledger_read_ahead_is_the_ledger(tmp_path, sources, monkeypatch):
    shards.prepare(manifest(sources, "a", "b", "c", "d", "bad"), tmp_path / "out", RECIPE)
    (tmp_path / "out/ledger/unit-000001.parquet").unlink()
    output = existing_output(tmp_path / "out")
    here = list(Ledger(output).each())
    monkeypatch.setattr(type(output.place), "is_local", False)
    ahead = list(Ledger(output).each())
    assert [isinstance(part, Part) for part in ahead] == [True, False, True]
    assert isinstance(ahead[1], Absent)
    for there, part in zip(ahead[::2], here[::2], strict=True):
        assert (there.shards, there.table) == (part.shards, part.table)


# Executions


def test_an_execution_is_made_ready_while_the_one_before_is_worked_on(monkeypatch):
    events = []

    def portions(*_):
        for name in ("abcd", "efg", "h"):
            events.append(f"made {name}")
            yield len(name), name

    monkeypatch.setattr(ray_units, "_portions", portions)
    monkeypatch.setattr(ray_units, "_counts", iter)
    for unit in RUN(None, [UnitTask(0, 1)], None, None, None):
        events.append(unit)  # noqa: PERF402 - in between the others
    assert events == ["made abcd", "a", "b", "made efg", "c", "d", "e", "f", "made h", "g", "h"]


@pytest.mark.parametrize(
    ("workers", "cpus", "sizes"), [(None, 2, [1024, 976]), (None, 20, [1280, 720]), (24, 2, [1536, 464])]
)
def test_an_execution_is_as_long_as_there_are_slots(monkeypatch, workers, cpus, sizes):
    import ray.data

    class Dataset:
        def __init__(self, items, **_):
            self.units = [item["unit"] for item in items]

        def map_batches(self, *_, **__):
            return self

    nodes = [Node({"CPU": cpus - 1}, id="a"), Node({"CPU": 1}, id="b"), Node({"CPU": 99}, {"gare.role": "train"}, "c")]
    monkeypatch.setattr(ray_cluster, "cluster_nodes", lambda: nodes)
    monkeypatch.setattr(ray.data, "from_items", Dataset)
    made = list(ray_units._portions(None, [UnitTask(n, 64) for n in range(2000)], workers, None, None))
    assert [size for size, _ in made] == sizes
    assert [unit for _, dataset in made for unit in dataset.units] == list(range(2000))
