"""Units, shards and ledger parts, without Ray."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gare.common.errors import InputError, RunError
from gare.common.files import file_digest
from gare.config.prepare import PrepareConfig
from gare.data.shards import ShardSet
from gare.schema import LEDGER, MANIFEST, SHARD, VERSION_KEY
from pipelines.dataset.ledger import read_ledger, remove_leftovers
from pipelines.dataset.opening import open_output
from pipelines.decode import decode_video
from pipelines.prepare import attempts
from pipelines.prepare import job as shards
from pipelines.prepare.process_unit import process_unit
from tests.videos import make_video

RECIPE = PrepareConfig(max_frames=3, short_side=32, crop=32, unit_videos=2)


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in "abc":
        make_video(folder / f"{name}.mp4", frames=40, gop=10)
    (folder / "bad.mp4").write_text("no video")
    return folder


def manifest(folder, names=("a", "bad", "b", "c")):
    made = [
        {
            "video_id": n,
            "uri": str(folder / f"{n}.mp4"),
            "split": "train" if n != "c" else "test",
            "captions": [f"video {n}"],
        }
        for n in names
    ]
    return pa.Table.from_pylist(made, schema=MANIFEST)


def done(folder, table, recipe=RECIPE):
    output = open_output(folder, table, recipe)
    for unit in range(output.units()):
        process_unit(output, unit)
    return output


def read_shard(path):
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def test_a_shard_row_holds_the_decoded_frames_and_where_they_came_from(tmp_path, videos):
    output = done(tmp_path / "out", manifest(videos))
    table = read_shard(output.shards / "unit-000000-00.arrow")
    assert table.schema.equals(SHARD)
    row = table.to_pylist()[0]
    decoded = decode_video(videos / "a.mp4", recipe=RECIPE)
    for stored, frame in zip(row["frames"], decoded.frames, strict=True):
        np.testing.assert_array_equal(np.frombuffer(stored, np.uint8).reshape(32, 32, 3), frame)
    assert row["timestamps_s"] == decoded.timestamps_s
    assert (row["source_width"], row["source_height"], row["source_codec"]) == (96, 64, "h264")
    assert row["source_sha256"] == file_digest(videos / "a.mp4")
    assert row["source_duration_s"] == pytest.approx(40 / 15)


def test_jpeg_storage_is_jpeg_and_close(tmp_path, videos):
    output = done(tmp_path / "out", manifest(videos), RECIPE.model_copy(update={"storage": "jpeg"}))
    row = read_shard(output.shards / "unit-000000-00.arrow").to_pylist()[0]
    assert row["frame_codec"] == "jpeg"
    decoded = decode_video(videos / "a.mp4", recipe=RECIPE)
    image = np.asarray(Image.open(io.BytesIO(row["frames"][0]), formats=["JPEG"])).astype(int)
    assert np.abs(image - decoded.frames[0]).mean() < 12


def test_every_manifest_row_is_a_ledger_row_and_a_bad_video_is_no_shard_row(tmp_path, videos):
    output = done(tmp_path / "out", manifest(videos))
    rows, files = read_ledger(output, 0)
    assert [(r["video_id"], r["status"], r["reason"], r["shard"]) for r in rows] == [
        ("a", "ok", None, "unit-000000-00.arrow"),
        ("bad", "failed", "unreadable", None),
    ]
    assert rows[1]["message"]
    assert [f.rows for f in files] == [1]


def test_shards_close_at_their_size_and_are_named_in_the_ledger(tmp_path, videos):
    recipe = RECIPE.model_copy(update={"shard_bytes": 1, "unit_videos": 4})
    output = done(tmp_path / "out", manifest(videos), recipe)
    rows, files = read_ledger(output, 0)
    assert [f.file for f in files] == [f"unit-000000-0{i}.arrow" for i in range(3)]
    assert [r["shard"] for r in rows if r["shard"]] == [f.file for f in files]
    for file in files:
        path = output.shards / file.file
        assert (file.sha256, file.bytes, file.rows) == (file_digest(path), path.stat().st_size, 1)


def test_batches_inside_a_shard_are_bounded(tmp_path, videos, monkeypatch):
    monkeypatch.setattr("pipelines.dataset.shard_rows.BATCH_ROWS", 2)
    output = done(tmp_path / "out", manifest(videos), RECIPE.model_copy(update={"unit_videos": 4}))
    reader = pa.ipc.open_file(pa.memory_map(str(output.shards / "unit-000000-00.arrow")))
    assert [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)] == [2, 1]


def test_doing_a_unit_twice_gives_the_same_bytes(tmp_path, videos):
    output = done(tmp_path / "out", manifest(videos))
    before = {f.name: file_digest(f) for f in output.shards.iterdir()}
    process_unit(output, 0)
    assert {f.name: file_digest(f) for f in output.shards.iterdir()} == before


def test_a_unit_of_bad_videos_has_a_ledger_part_and_no_shard(tmp_path, videos):
    output = done(tmp_path / "out", manifest(videos, ["bad"]))
    assert list(output.shards.iterdir()) == []
    assert read_ledger(output, 0)[1] == []


def test_an_unexpected_error_inside_one_video_is_a_ledger_row(tmp_path, videos, monkeypatch):
    shard_row = attempts.shard_row

    def fail(row, *arguments, **named):
        if row["video_id"] == "a":
            raise ZeroDivisionError("by nothing\nsecond line")
        return shard_row(row, *arguments, **named)

    monkeypatch.setattr(attempts, "shard_row", fail)
    output = done(tmp_path / "out", manifest(videos))
    row = read_ledger(output, 0)[0][0]
    assert (row["status"], row["reason"], row["message"]) == ("failed", "internal", "ZeroDivisionError: by nothing")
    assert read_ledger(output, 1)[0][0]["status"] == "ok"


def test_a_failure_while_writing_leaves_no_ledger_part_and_no_half_shard(tmp_path, videos, monkeypatch):
    output = open_output(tmp_path / "out", manifest(videos, ["a", "b"]), RECIPE)
    monkeypatch.setattr("pipelines.dataset.shard_rows.BATCH_ROWS", 1)
    of_one_source = attempts.of_one_source

    def disk_full_at_b(rows, *arguments):
        if rows[0][1]["video_id"] == "b":
            raise OSError("no space left")
        return of_one_source(rows, *arguments)

    monkeypatch.setattr(attempts, "of_one_source", disk_full_at_b)
    with pytest.raises(InputError, match=r"Cannot write .*: no space left"):
        process_unit(output, 0)
    assert read_ledger(output, 0) is None
    assert list(output.shards.iterdir()) == []
    assert list((output.folder / "ledger").iterdir()) == []


@pytest.mark.parametrize("damage", ["remove_shard", "cut_shard", "cut_ledger", "remove_ledger"])
def test_a_unit_with_a_damaged_file_is_not_finished(tmp_path, videos, damage):
    output = done(tmp_path / "out", manifest(videos))
    what, where = damage.split("_")
    path = output.shards / "unit-000000-00.arrow" if where == "shard" else output.ledger(0)
    if what == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    assert read_ledger(output, 0) is None
    assert read_ledger(output, 1) is not None


def test_leftovers_of_unfinished_units_are_removed_and_nothing_else(tmp_path, videos):
    output = done(tmp_path / "out", manifest(videos))
    (output.shards / ".unit-000001-00.arrow.abc.tmp").touch()
    (output.shards / ".unit-000000-00.arrow.abc.tmp").touch()
    remove_leftovers(output, [1])
    assert sorted(f.name for f in output.shards.iterdir()) == [".unit-000000-00.arrow.abc.tmp", "unit-000000-00.arrow"]
    assert not output.ledger(1).exists()
    for name in ("unit-1000001-00.arrow", "unit-100000-00.arrow", ".unit-1000001-00.arrow.abc.tmp"):
        (output.shards / name).touch()
    remove_leftovers(output, [100_000])
    left = {f.name for f in output.shards.iterdir()}
    assert {"unit-1000001-00.arrow", ".unit-1000001-00.arrow.abc.tmp"} <= left
    assert "unit-100000-00.arrow" not in left
    remove_leftovers(output, [1_000_001])
    assert not any("1000001" in f.name for f in output.shards.iterdir())


def test_another_recipe_is_refused_naming_the_setting(tmp_path, videos):
    done(tmp_path / "out", manifest(videos))
    with pytest.raises(InputError, match=r"another recipe: prepare.max_frames was 3, now 4\."):
        open_output(tmp_path / "out", manifest(videos), RECIPE.model_copy(update={"max_frames": 4}))


def test_another_manifest_is_refused(tmp_path, videos):
    done(tmp_path / "out", manifest(videos))
    with pytest.raises(InputError, match="another manifest"):
        open_output(tmp_path / "out", manifest(videos, ["a", "b"]), RECIPE)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{broken"])
def test_a_damaged_recipe_file_is_refused(tmp_path, videos, text):
    done(tmp_path / "out", manifest(videos))
    (tmp_path / "out" / "recipe.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        open_output(tmp_path / "out", manifest(videos), RECIPE)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, videos):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="is a file"):
        open_output(tmp_path / "out", manifest(videos), RECIPE)


def test_the_dataset_manifest_adds_up_and_the_trainer_reads_it(tmp_path, videos):
    output = done(tmp_path / "out", manifest(videos))
    dataset = shards.dataset_manifest(output)
    assert dataset["totals"] | {"bytes": 0} == {
        "rows": 4, "ok": 3, "filtered": {}, "failed": {"unreadable": 1}, "notes": {}, "frames": 9, "bytes": 0,
    }  # fmt: skip
    assert dataset["splits"] == {"test": {"videos": 1, "captions": 1}, "train": {"videos": 2, "captions": 2}}
    assert dataset["totals"]["bytes"] == sum(f.stat().st_size for f in output.shards.iterdir())
    (output.folder / "dataset.json").write_text(json.dumps(dataset))
    split = ShardSet(output.folder).split("train")
    assert [video.video_id for video in split.videos] == ["a", "b"]
    assert split.frames(0, 3).shape == (3, 32, 32, 3)


def test_a_finished_folder_needs_no_ray_and_is_left_as_it_is(tmp_path, videos):
    table = manifest(videos)
    from pipelines.manifest.rows import write_manifest

    write_manifest(table, tmp_path / "m.parquet")
    done(tmp_path / "out", table)
    report = shards.prepare(tmp_path / "m.parquet", tmp_path / "out", RECIPE)
    assert (report.videos, report.units_skipped, report.totals["ok"]) == (0, 2, 3)


def test_no_video_at_all_is_an_error_that_names_the_ledger(tmp_path, videos):
    from pipelines.manifest.rows import write_manifest

    table = manifest(videos, ["bad"])
    write_manifest(table, tmp_path / "m.parquet")
    output = done(tmp_path / "out", table)
    with pytest.raises(RunError, match=r"None of the 1 videos could be decoded; .*ledger says why"):
        shards.prepare(tmp_path / "m.parquet", tmp_path / "out", RECIPE)
    assert not (output.folder / "dataset.json").exists()


def test_schemas_are_plain_and_stamped(tmp_path, videos):
    output = done(tmp_path / "out", manifest(videos))
    metadata = read_shard(output.shards / "unit-000001-00.arrow").schema.metadata
    assert metadata[VERSION_KEY] == b"1"
    assert metadata[b"gare.recipe_digest"] == output.digest.encode()
    assert metadata[b"gare.work_unit"] == b"1"
    for field in (*SHARD, *LEDGER):
        assert not isinstance(field.type, pa.BaseExtensionType)


def test_an_address_that_is_not_fetched_is_a_ledger_row(tmp_path, videos):
    table = manifest(videos, ["a", "b"]).to_pylist()
    table[0]["uri"] = "https://bucket/a.mp4"
    output = done(tmp_path / "out", pa.Table.from_pylist(table, schema=MANIFEST))
    row = read_ledger(output, 0)[0][0]
    assert (row["reason"], row["shard"]) == ("unsupported_uri", None)
