"""What the data job finished once stays, whatever storage says and whatever was damaged since."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare.common import storage
from gare.common.errors import InputError
from gare.common.files import file_digest
from gare.common.storage import Folder
from gare.config.prepare import PrepareConfig
from gare.data.shards import ShardSet
from gare.schema import MANIFEST
from pipelines.dataset.ledger import Ledger
from pipelines.dataset.opening import existing_output
from pipelines.decode.isolated.decoder import Decoder
from pipelines.manifest.rows import write_manifest
from pipelines.prepare import job as shards
from pipelines.prepare import unit_tasks
from tests.failing import ERRORS, failing_reads, full_from
from tests.prepared import make_sources

RECIPE = PrepareConfig(max_frames=3, short_side=32, crop=32, unit_videos=2, shard_bytes=1)
NAMES = ("a", "b", "c", "bad")


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as made:
        yield made


@pytest.fixture(autouse=True)
def here(monkeypatch, decoder):
    """Units are done in this process."""

    def run(output, todo, workers, decode_on, work):
        for task in todo:
            yield work(output, task.unit, decoder, again=task.again, repair=bool(task.damage))

    monkeypatch.setattr(shards, "run_units", run)
    monkeypatch.setattr(shards, "check_somewhere", lambda _: None)
    monkeypatch.setattr(storage, "PAUSES_S", (0.0, 0.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory, decoder):
    """Sources, a manifest, and a folder of two units: a and b, c and one that fails; a shard for each video."""
    folder = tmp_path_factory.mktemp("made")
    sources = make_sources(folder / "videos")
    rows = [
        {"video_id": n, "uri": str(sources / f"{n}.mp4"), "split": "train", "captions": [n], "attributes": [("k", n)]}
        for n in NAMES
    ]
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), folder / "m.parquet")
    shards.prepare(folder / "m.parquet", folder / "out", RECIPE, workers=1, local=True)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the folder, and whether the sources are there is up to the test."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def gone(made):
    """The sources are out of reach."""
    (made / "videos").rename(made / "away")
    yield
    (made / "away").rename(made / "videos")


def files(folder):
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def frames(folder):
    """Frames by video, as training reads them."""
    split = ShardSet(folder).split("train")
    return {video.video_id: split.frames(n, 3).tobytes() for n, video in enumerate(split.videos)}


def ledger(folder):
    output = existing_output(folder)
    return {row["video_id"]: row for n in range(output.units()) for row in Ledger(output).part(n).table.to_pylist()}


# Storage that fails


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("once", [False, True])
def test_an_error_at_any_read_changes_nothing(made, copy, gone, monkeypatch, error, once):
    def again():
        return shards.prepare(made / "m.parquet", copy, RECIPE)

    before = files(copy)
    with monkeypatch.context() as patch:
        counted = failing_reads(patch, 10**9, ERRORS[error])
        again()
    assert counted.calls > 10
    assert files(copy) == before
    for number in range(counted.calls):
        with monkeypatch.context() as patch:
            failing_reads(patch, number, ERRORS[error], once=once)
            if once:
                assert again().videos == 0
            else:
                with pytest.raises(InputError, match="Cannot read"):
                    again()
        assert files(copy) == before, number


def test_an_error_in_the_middle_of_a_ledger_part_is_no_end_of_it(made, copy, gone, monkeypatch):
    before, read = files(copy), Folder.read_bytes

    def cut(self, name):
        if name.startswith("ledger/"):
            raise InputError(f"Cannot read {self.named(name)}: Input/output error")
        return read(self, name)

    monkeypatch.setattr(Folder, "read_bytes", cut)
    with pytest.raises(InputError, match=r"Cannot read .*unit-000000.parquet: Input/output error"):
        shards.prepare(made / "m.parquet", copy, RECIPE)
    assert files(copy) == before


def test_a_source_that_storage_does_not_give_is_said_and_stays(made, copy, monkeypatch, capsys):
    def stale(_):
        raise ERRORS["ESTALE"]

    before = files(copy)
    monkeypatch.setattr(unit_tasks, "_look", stale)
    shards.prepare(made / "m.parquet", copy, RECIPE, changed="redo")
    assert files(copy) == before
    assert "3 sources could not be looked at, 'a' first" in " ".join(capsys.readouterr().err.split())


# Files that are damaged


def cut(path):
    path.write_bytes(path.read_bytes()[:10])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def remove(path):
    path.unlink()


LEDGER, SHARD = "ledger/unit-000000.parquet", "shards/unit-000000-01.arrow"


@pytest.mark.parametrize(
    ("damage", "with_dataset"), [(cut, True), (cut, False), (flip, True), (flip, False), (remove, True)]
)
@pytest.mark.parametrize("with_sources", [True, False])
def test_a_ledger_part_that_is_damaged_costs_no_video(made, copy, request, damage, with_dataset, with_sources):
    stored, digest, told = frames(copy), ShardSet(copy).digest, ledger(copy)
    if not with_sources:
        request.getfixturevalue("gone")
    damage(copy / LEDGER)
    if not with_dataset:
        (copy / "dataset.json").unlink()
    report = shards.prepare(made / "m.parquet", copy, RECIPE)
    assert (report.totals["ok"], report.videos) == (3, 2)
    assert (frames(copy), ShardSet(copy).digest) == (stored, digest)
    for name, row in ledger(copy).items():
        for column in ("status", "frames", "source_sha256", "source_bytes"):
            assert row[column] == told[name][column]
    assert shards.prepare(made / "m.parquet", copy, RECIPE).videos == 0


@pytest.mark.parametrize("damage", [cut, remove])
@pytest.mark.parametrize("both", [False, True])
def test_a_shard_that_is_damaged_is_made_again_or_the_unit_is_named(made, copy, damage, both):
    stored, digest = frames(copy), ShardSet(copy).digest
    damage(copy / SHARD)
    if both:
        cut(copy / LEDGER)
    before = files(copy)
    (made / "videos").rename(made / "away")
    try:
        with pytest.raises(InputError, match=r"he shard unit-000000-01.arrow .*'b' cannot be decoded again \(missing"):
            shards.prepare(made / "m.parquet", copy, RECIPE)
    finally:
        (made / "away").rename(made / "videos")
    assert files(copy) == before
    shards.prepare(made / "m.parquet", copy, RECIPE)
    assert (frames(copy), ShardSet(copy).digest) == (stored, digest)


@pytest.mark.parametrize("with_dataset", [True, False])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_without_a_ledger_part_a_source_that_was_cut_off_is_no_answer(made, copy, with_dataset, content):
    stored = frames(copy)
    cut(copy / LEDGER)
    remove(copy / SHARD)
    if not with_dataset:
        (copy / "shards/unit-000000-00.arrow").write_bytes(b"")
        (copy / "dataset.json").unlink()
    before, source = files(copy), made / "videos/b.mp4"
    whole = source.read_bytes()
    source.write_bytes(content)
    try:
        with pytest.raises(InputError, match=r"'b' cannot be decoded again \((empty_file|unreadable)"):
            shards.prepare(made / "m.parquet", copy, RECIPE)
    finally:
        source.write_bytes(whole)
    assert files(copy) == before
    shards.prepare(made / "m.parquet", copy, RECIPE)
    assert frames(copy) == stored


def test_a_row_that_never_gave_anything_does_not_hold_up_a_repair(made, copy):
    stored = frames(copy)
    for name in ("ledger/unit-000001.parquet", "shards/unit-000001-00.arrow"):
        cut(copy / name)
    report = shards.prepare(made / "m.parquet", copy, RECIPE)
    assert (frames(copy), report.totals["ok"]) == (stored, 3)


def test_a_repair_killed_at_its_end_begins_again(made, copy, gone, monkeypatch):
    stored = frames(copy)
    cut(copy / LEDGER)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.dataset.shard_rows.write_ledger", _killed)
        with pytest.raises(KeyboardInterrupt):
            shards.prepare(made / "m.parquet", copy, RECIPE)
    shards.prepare(made / "m.parquet", copy, RECIPE)
    assert frames(copy) == stored


def _killed(*_):
    raise KeyboardInterrupt


def test_what_can_be_done_is_done_before_a_unit_that_cannot(made, copy, gone, monkeypatch):
    remove(copy / SHARD)
    tasks = shards.tasks
    monkeypatch.setattr(shards, "tasks", lambda *given, **more: seen.extend(tasks(*given, **more)) or list(seen))
    seen = []
    (copy / "dataset.json").unlink()
    (copy / "ledger/unit-000001.parquet").unlink()
    with pytest.raises(InputError, match="cannot be decoded again"):
        shards.prepare(made / "m.parquet", copy, RECIPE)
    assert [(task.unit, bool(task.damage)) for task in seen] == [(1, False), (0, True)]


def test_a_changed_source_that_is_no_video_any_more_does_not_replace_what_is_stored(made, copy, tmp_path, capsys):
    stored, digest, source = frames(copy), ShardSet(copy).digest, made / "videos/b.mp4"
    shutil.copy(source, tmp_path / "kept.mp4")
    try:
        source.write_bytes(source.read_bytes()[:100])
        shards.prepare(made / "m.parquet", copy, RECIPE, changed="redo")
    finally:
        shutil.copy2(tmp_path / "kept.mp4", source)
    assert (frames(copy), ShardSet(copy).digest) == (stored, digest)
    assert ledger(copy)["b"]["attempts"] == 2
    assert "1 videos that were stored before could not be decoded again" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["manifest.arrow", "recipe.json"])
@pytest.mark.parametrize("damage", [cut, flip])
def test_a_manifest_or_recipe_that_is_damaged_changes_nothing(made, copy, name, damage):
    damage(copy / name)
    before = files(copy)
    with pytest.raises(InputError, match=r"damaged|another recipe|was changed in this one"):
        shards.prepare(made / "m.parquet", copy, RECIPE)
    assert files(copy) == before


def test_a_lost_manifest_is_not_replaced_by_another(made, copy, tmp_path):
    (copy / "manifest.arrow").unlink()
    before = files(copy)
    table = pa.Table.from_pylist([{"video_id": "z", "uri": "z", "split": "s", "captions": []}], MANIFEST)
    write_manifest(table, tmp_path / "z.parquet")
    with pytest.raises(InputError, match=r"manifest.arrow is gone, and this is not the manifest"):
        shards.prepare(tmp_path / "z.parquet", copy, RECIPE)
    assert files(copy) == before
    assert shards.prepare(made / "m.parquet", copy, RECIPE).videos == 0


def test_a_lost_manifest_of_a_folder_that_had_grown_is_not_cut_anew(made, tmp_path):
    rows = pq.read_table(made / "m.parquet")
    out = tmp_path / "out"
    for count in (1, 4):  # units of 1 and of 2 and 1 rows; one cut of the whole has 2 and 2
        write_manifest(rows.slice(0, count), tmp_path / "m.parquet")
        shards.prepare(tmp_path / "m.parquet", out, RECIPE, workers=1, local=True)
    (out / "manifest.arrow").unlink()
    before = files(out)
    with pytest.raises(InputError, match=r"had grown in parts that only that file tells"):
        shards.prepare(tmp_path / "m.parquet", out, RECIPE, workers=1, local=True)
    assert files(out) == before


# A disk that fills


def test_a_disk_that_fills_costs_no_video_and_the_same_command_goes_on(made, tmp_path, monkeypatch):
    rows, out = pq.read_table(made / "m.parquet"), tmp_path / "out"

    def grown():
        return shards.prepare(tmp_path / "m.parquet", out, RECIPE, workers=1, local=True)

    for name in ("kept", "whole"):
        write_manifest(rows.slice(0, 2) if name == "kept" else rows, tmp_path / "m.parquet")
        with monkeypatch.context() as patch:
            counted = full_from(patch, 10**9)
            grown()
        shutil.copytree(out, tmp_path / name)
    before, wanted = frames(tmp_path / "kept"), ShardSet(out).digest
    for number in range(0, counted[0], 3):
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "kept", out)
        with monkeypatch.context() as patch:
            full_from(patch, number)
            with pytest.raises(InputError, match=rf"Cannot write {out}\S*: No space left on device"):
                grown()
        now = frames(out)
        assert {name: now[name] for name in before} == before
        assert list(out.rglob("*.tmp")) == []
        grown()
        assert ShardSet(out).digest == wanted
