"""Looking into a prepared folder, and proving that it is whole: every kind of damage is found and said."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare.common.errors import InputError
from gare.common.files import file_digest, write_json
from gare.schema import MANIFEST
from pipelines.dataset.inspection.contents import read_contents
from pipelines.dataset.inspection.summary import draw_sheet, summarise
from pipelines.dataset.inspection.verify import verify
from pipelines.dataset.ledger import SHARDS_KEY, dataset_manifest
from pipelines.dataset.opening import open_output
from pipelines.prepare.process_unit import process_unit
from tests.prepared import RECIPE, make_sources, prepare

SHARD = "shards/unit-000000-00.arrow"
LEDGER = "ledger/unit-000000.parquet"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Videos and their prepared folder."""
    place = tmp_path_factory.mktemp("inspection")
    prepare(place / "shards", make_sources(place / "videos"))
    return place


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the prepared folder, to be damaged."""
    return shutil.copytree(made / "shards", tmp_path / "shards")


def found(folder, sample=0):
    return verify(read_contents(folder), sample=sample)


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def rewrite_ledger(folder, change=lambda _: None, metadata=None):
    table = pq.read_table(folder / LEDGER)
    rows = table.to_pylist()
    change(rows)
    schema = table.schema.with_metadata({**table.schema.metadata, **(metadata or {})})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / LEDGER)


def rewrite_shard(folder, change, metadata=None):
    """Change the rows of a shard and make every digest fit again, so that only the rows can tell."""
    path = folder / SHARD
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    rows = table.to_pylist()
    change(rows)
    schema = table.schema.with_metadata({**table.schema.metadata, **(metadata or {})})
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    entry = {"file": path.name, "unit": 0, "rows": len(rows), "bytes": path.stat().st_size, "sha256": file_digest(path)}
    rewrite_ledger(folder, metadata={SHARDS_KEY: json.dumps([entry]).encode()})
    write_json(folder / "dataset.json", dataset_manifest(read_contents(folder).output))


def darken(rows):
    rows[0]["frames"][1] = bytes(max(0, value - 2) for value in rows[0]["frames"][1])


def flip_a_byte(folder):
    data = bytearray((folder / SHARD).read_bytes())
    data[data.index(b"a thing")] = ord("A")
    (folder / SHARD).write_bytes(data)


def test_a_fresh_folder_has_no_differences_and_all_its_sources_are_decoded_again(made):
    verdict = found(made / "shards", sample=None)
    assert (verdict.problems, verdict.unverifiable) == ([], [])
    assert (verdict.shards, verdict.rows, verdict.sources) == (2, 4, 3)


def test_jpeg_storage_gives_the_same_bytes_again(made, tmp_path):
    folder = prepare(tmp_path / "jpeg", made / "videos", RECIPE.model_copy(update={"storage": "jpeg"}))
    assert found(folder, sample=None).problems == []


DAMAGES = {
    "a changed byte": (flip_a_byte, "has another SHA-256 than its ledger part says"),
    "a cut shard": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-100]), "bytes, not"),
    "a lost shard": (lambda f: (f / SHARD).unlink(), "unit-000000-00.arrow is missing"),
    "a lost ledger part": (lambda f: (f / LEDGER).unlink(), "Unit 0 has no ledger part"),
    "a damaged ledger part": (lambda f: (f / LEDGER).write_bytes(b"junk"), "cannot be read"),
    "a ledger part of another recipe": (
        lambda f: rewrite_ledger(f, metadata={b"gare.recipe_digest": b"0"}),
        "was made by another recipe",
    ),
    "a ledger part that lists no shards": (
        lambda f: rewrite_ledger(f, metadata={SHARDS_KEY: b"[1]"}),
        "list its shards",
    ),
    "a ledger part that lists shards elsewhere": (
        lambda f: rewrite_ledger(
            f, metadata={SHARDS_KEY: b'[{"file":"../x","unit":0,"rows":1,"bytes":1,"sha256":""}]'}
        ),
        "list its shards",
    ),
    "a ledger row too few": (lambda f: rewrite_ledger(f, lambda rows: rows.pop()), "does not hold the rows"),
    "a ledger row with other frames": (
        lambda f: rewrite_ledger(f, lambda rows: rows[0].update(frames=3)),
        "'a' in unit-000000-00.arrow has 2 frames, and 3 in the ledger",
    ),
    "a ledger row that names another shard": (
        lambda f: rewrite_ledger(f, lambda rows: rows[0].update(shard="unit-000000-01.arrow")),
        "the ledger says that it is in unit-000000-01.arrow",
    ),
    "a ledger row that calls a failed video ok": (
        lambda f: rewrite_ledger(f, lambda rows: rows[1].update(status="ok", shard="unit-000000-00.arrow")),
        "'bad' is ok in the ledger, but not in the shard",
    ),
    "a ledger row of no known status": (
        lambda f: rewrite_ledger(f, lambda rows: rows[0].update(status="fine")),
        "'a' has the status 'fine'",
    ),
    "a failed ledger row without a reason": (
        lambda f: rewrite_ledger(f, lambda rows: rows[1].update(reason=None)),
        "'bad' is failed in the ledger, which gives no reason",
    ),
    "an ok ledger row without a shard": (
        lambda f: rewrite_ledger(f, lambda rows: rows[0].update(shard=None)),
        "'a' is ok in the ledger, which names no shard",
    ),
    "a ledger row that calls a stored video failed": (
        lambda f: rewrite_ledger(f, lambda rows: rows[0].update(status="failed", reason="corrupt")),
        "which the ledger does not call decoded",
    ),
    "a row twice": (lambda f: rewrite_shard(f, lambda rows: rows.append(rows[0])), "'a' is twice in the shards"),
    "a row of other captions": (
        lambda f: rewrite_shard(f, lambda rows: rows[0].update(captions=["else"])),
        "has another captions than the manifest",
    ),
    "a row with a timestamp too few": (
        lambda f: rewrite_shard(f, lambda rows: rows[0]["timestamps_s"].pop()),
        "2 frames, but 1 timestamps",
    ),
    "timestamps out of order": (
        lambda f: rewrite_shard(f, lambda rows: rows[0]["timestamps_s"].reverse()),
        "its timestamps do not rise",
    ),
    "a frame that is too short": (
        lambda f: rewrite_shard(f, lambda rows: rows[0]["frames"].__setitem__(0, b"123")),
        "a frame is not of 32 x 32 pixels",
    ),
    "frames of another size": (
        lambda f: rewrite_shard(f, lambda rows: rows[0].update(height=16, width=64)),
        "its frames are 64 x 16, which the recipe does not make",
    ),
    "frames of another kind": (
        lambda f: rewrite_shard(f, lambda rows: rows[0].update(frame_codec="jpeg")),
        "its frames are jpeg; the recipe says raw",
    ),
    "a shard of another unit": (
        lambda f: rewrite_shard(f, lambda _: None, {b"gare.work_unit": b"1"}),
        "is not of unit 0",
    ),
    "a shard of another recipe": (
        lambda f: rewrite_shard(f, lambda _: None, {b"gare.recipe_digest": b"0"}),
        "was decoded by another recipe",
    ),
    "other totals": (
        lambda f: edit_json(f / "dataset.json", lambda values: values["totals"].update(ok=4)),
        "dataset.json has other totals",
    ),
    "no dataset.json": (lambda f: (f / "dataset.json").unlink(), "There is no dataset.json"),
    "another recipe": (
        lambda f: edit_json(f / "recipe.json", lambda values: values["recipe"].update(max_frames=4)),
        "recipe.json has another digest",
    ),
    "another manifest": (
        lambda f: edit_json(f / "recipe.json", lambda values: values.update(manifest_sha256="0" * 64)),
        "manifest.arrow has other rows",
    ),
    "a shard of nobody": (
        lambda f: shutil.copy(f / SHARD, f / "shards/unit-000007-00.arrow"),
        "shards/unit-000007-00.arrow belongs to no work unit",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_without_any_source(folder, damage, sentence):
    damage(folder)
    problems = found(folder).problems
    assert any(sentence in problem for problem in problems), problems
    assert all(problem.endswith(".") and "\n" not in problem for problem in problems)


def test_any_byte_that_changes_is_found_or_changes_nothing(folder):
    contents = read_contents(folder)
    random = np.random.default_rng(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(80):
        path = files[random.integers(len(files))]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[random.integers(len(damaged))] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        with suppress(InputError):
            now = read_contents(folder)
            summarise(now)
            if not verify(now, sample=0).problems:
                assert (now.ledger, now.dataset, now.output) == (contents.ledger, contents.dataset, contents.output)
        path.write_bytes(whole)


def test_a_row_of_a_shard_that_cannot_be_read_is_not_called_lost_as_well(folder):
    rewrite_shard(folder, lambda _: None, {b"gare.recipe_digest": b"0"})
    assert not any("but not in the shard" in problem for problem in found(folder).problems)


def test_frames_that_the_source_does_not_give_are_found_by_decoding_it_again(folder):
    rewrite_shard(folder, darken)
    assert found(folder).problems == []
    problem = found(folder, sample=None).problems
    assert len(problem) == 1
    assert "decodes to another frames than is stored (1 of 2 frames, by" in problem[0]


def test_sources_that_changed_are_told_from_those_that_are_gone(made, tmp_path):
    videos = shutil.copytree(made / "videos", tmp_path / "videos")
    folder = prepare(tmp_path / "shards", videos)
    shutil.copy(videos / "b.mp4", videos / "a.mp4")
    (videos / "b.mp4").unlink()
    (videos / "c.mp4").write_text("no video any more")
    verdict = found(folder, sample=None)
    assert [("another file" in p, "cannot be now: unreadable" in p) for p in verdict.problems] == [
        (True, False),
        (False, True),
    ]
    assert len(verdict.unverifiable) == 1
    assert "'b'" in verdict.unverifiable[0]
    assert "missing" in verdict.unverifiable[0]
    assert verdict.sources == 2


def test_the_sample_is_drawn_by_seed_and_has_its_size(made):
    contents = read_contents(made / "shards")
    assert [verify(contents, sample=size).sources for size in (0, 2, 9)] == [0, 2, 3]
    from pipelines.dataset.inspection.verify import sampled

    drawn = [tuple(s.manifest_row["video_id"] for s in sampled(contents, 1, seed)) for seed in range(20)]
    assert set(drawn) == {("a",), ("b",), ("c",)}
    assert drawn[0] == tuple(s.manifest_row["video_id"] for s in sampled(contents, 1, 0))


def test_the_summary_counts_what_is_there(made):
    contents = read_contents(made / "shards")
    summary = summarise(contents)
    assert contents.remark() is None
    assert summary["finished"]
    assert summary["outcomes"] == [
        {"status": "ok", "reason": "", "notes": "", "videos": 3},
        {"status": "failed", "reason": "unreadable", "notes": "", "videos": 1},
    ]
    train, test = summary["splits"]["train"], summary["splits"]["test"]
    assert (train["videos"], train["decoded"], train["captions"], train["uncaptioned"]) == (3, 2, 3, 0)
    assert (test["videos"], test["decoded"], test["captions"], test["uncaptioned"]) == (1, 1, 0, 1)
    assert summary["duration_s"]["min"] == pytest.approx(40 / 15)
    assert summary["duration_s"]["median"] == pytest.approx(50 / 15)
    assert summary["frames"]["total"] == sum(n * videos for n, videos in summary["frames_per_video"].items())
    assert summary["codecs"] == {"h264": 3}
    assert summary["source_sizes"] == {"96 x 64": 3}
    assert summary["frame_sizes"] == {"32 x 32": 3}
    assert summary["bytes"]["sources"] == sum((made / f"videos/{name}.mp4").stat().st_size for name in "abc")
    assert summary["bytes"]["shards"] == sum(file.stat().st_size for file in (made / "shards/shards").iterdir())
    assert summary["recipe"]["max_frames"] == 3
    times = [row["decode_s"] for row in contents.ledger]
    assert summary["decode"]["videos_per_s"] == pytest.approx(4 / sum(times))
    assert [row["decode_s"] for row in summary["decode"]["slowest"]] == sorted(times, reverse=True)
    json.dumps(summary, allow_nan=False)


def test_an_unfinished_folder_says_what_is_missing_and_how_to_go_on(folder):
    (folder / "dataset.json").unlink()
    assert "gare prepare command again writes it" in read_contents(folder).remark()
    (folder / LEDGER).unlink()
    contents = read_contents(folder)
    assert "1 of 2 work units are not finished" in contents.remark()
    assert "continues with them" in contents.remark()
    assert summarise(contents)["units"] == {"finished": 1, "total": 2}
    (folder / "ledger/unit-000001.parquet").unlink()
    summary = summarise(read_contents(folder))
    assert (summary["videos"], summary["duration_s"], summary["decode"]["videos_per_s"]) == (0, None, None)


def test_a_folder_where_no_video_could_be_decoded_says_so(made, tmp_path):
    rows = [{"video_id": "x", "uri": str(made / "videos/bad.mp4"), "split": "train", "captions": ["x"]}]
    output = open_output(tmp_path / "out", pa.Table.from_pylist(rows, MANIFEST), RECIPE)
    process_unit(output, 0)
    contents = read_contents(tmp_path / "out")
    assert "no video could be decoded" in contents.remark()
    assert summarise(contents)["frames"] is None
    with pytest.raises(InputError, match="no decoded video to draw"):
        draw_sheet(contents, tmp_path / "sheet.png", videos=1, seed=0)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shutil.rmtree, "There is no folder"),
        (lambda f: (f / "recipe.json").unlink(), "no folder of gare prepare"),
        (lambda f: (f / "manifest.arrow").unlink(), "no folder of gare prepare"),
        (lambda f: (f / "manifest.arrow").write_bytes(b"junk"), "manifest.arrow is damaged"),
        (lambda f: (f / "recipe.json").write_text("{"), "is damaged"),
        (lambda f: edit_json(f / "recipe.json", lambda v: v["recipe"].update(new_key=1)), "another version"),
        (lambda f: edit_json(f / "recipe.json", lambda v: v.update(schema_version=99)), "schema version 99"),
        (lambda f: (f / "dataset.json").write_text("[]"), "dataset.json is damaged"),
    ],
)
def test_what_is_no_prepared_folder_is_one_sentence(folder, damage, sentence):
    damage(folder)
    with pytest.raises(InputError, match=sentence):
        read_contents(folder)


def test_every_cut_of_the_manifest_is_refused_without_a_crash(folder):
    whole = (folder / "manifest.arrow").read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        (folder / "manifest.arrow").write_bytes(whole[:length])
        with pytest.raises(InputError, match="is damaged"):
            read_contents(folder)


def test_a_sheet_is_a_png_drawn_by_seed_with_a_row_for_each_video(made, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("pipelines.dataset.inspection.summary.write_sheet", lambda *given, **_: drawn.append(given))
    contents = read_contents(made / "shards")
    assert draw_sheet(contents, tmp_path / "x", videos=9, seed=0) == 3
    _, _, rows = drawn[-1]
    assert [row.text.split(" ")[0] for row in rows] == ["a", "b", "c"]
    assert "“a thing” (and 1 more)" in rows[0].text
    assert "no caption" in rows[1].text
    assert [cell.text for cell in rows[0].cells] == ["1.00 s", "2.00 s"]
    stored = contents.tables["unit-000000-00.arrow"]["frames"][0][0].as_py()
    np.testing.assert_array_equal(rows[0].cells[0].pictures[0], np.frombuffer(stored, np.uint8).reshape(32, 32, 3))
    assert draw_sheet(contents, tmp_path / "x", videos=9, seed=0, split="test") == 1
    chosen = set()
    for seed in range(20):
        draw_sheet(contents, tmp_path / "x", videos=1, seed=seed)
        chosen.add(drawn[-1][2][0].text)
    assert len(chosen) == 3
    monkeypatch.undo()
    draw_sheet(contents, tmp_path / "sheet.png", videos=2, seed=0)
    assert (tmp_path / "sheet.png").read_bytes().startswith(PNG)


def test_a_sheet_of_damaged_frames_is_one_sentence(folder, tmp_path):
    rewrite_shard(folder, lambda rows: rows[0]["frames"].__setitem__(0, b"123"))
    with pytest.raises(InputError, match=r"The frames of 'a' in .* are damaged"):
        draw_sheet(read_contents(folder), tmp_path / "sheet.png", videos=9, seed=0)
