"""Folders of videos: no file is lost without a word, and long ones are cut into clips."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gare.cli.manifest import manifest as manifest_group
from gare.common.errors import InputError
from gare.config.prepare import PrepareConfig
from pipelines.decode import decode_video
from pipelines.manifest.files import BROKEN_LINK, NO_FILE, NO_UTF8, UNREADABLE
from pipelines.manifest.load import load_manifest
from pipelines.manifest.sources.folder import Segments, from_folder
from pipelines.manifest.sources.options import SourceOptions
from pipelines.manifest.sources.tables import from_csv
from tests.videos import make_video

ANY = SourceOptions()


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def run(*arguments):
    return CliRunner().invoke(manifest_group, [str(argument) for argument in arguments])


def said(capfd, *arguments):
    """The JSON object of a command that succeeds, and what it says beside."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0
    return json.loads(capfd.readouterr().out), result.output


# Whole files


def test_the_names_of_the_example_stay_as_they_are(fixtures_dir):
    folder = fixtures_dir / "faults/05-folder-names-with-spaces/v"
    made = from_folder(folder, ANY).table.to_pylist()
    assert [row["video_id"] for row in made] == [" lead", " plain", "plain"]
    assert all(Path(row["uri"]).is_file() for row in made)


def test_the_hidden_folders_of_the_example_do_not_count(fixtures_dir):
    made = from_folder(fixtures_dir / "faults/13-hidden-folders/v", ANY)
    assert (made.table["video_id"].to_pylist(), made.left_out) == (["kept"], {})


def test_a_hidden_folder_that_is_named_itself_counts(tmp_path):
    touch(tmp_path / ".cache", "a.mp4", ".b/c.mp4", "d/.e.mp4")
    assert from_folder(tmp_path / ".cache", ANY).table["video_id"].to_pylist() == ["a"]


NAMES = st.text(st.sampled_from(" \t\n.\u00a0\u2028ab~\\:%#?é\u0301'\""), min_size=1, max_size=6)
NAMES = NAMES.filter(lambda name: not name.startswith("."))


@given(st.sets(st.tuples(st.sampled_from(["", " x/", "~/"]), NAMES).map("".join), min_size=1, max_size=6))
def test_a_folder_gives_a_video_for_every_file(tmp_path_factory, names):
    folder = touch(tmp_path_factory.mktemp("videos"), *(f"{name}.mp4" for name in names))
    made = from_folder(folder, ANY)
    assert sorted(made.table["uri"].to_pylist()) == sorted(str(folder / f"{name}.mp4") for name in names)
    assert len(set(made.table["video_id"].to_pylist())) == len(names)
    assert made.left_out == {}


def test_short_ids_never_meet_the_long_ids_of_others(tmp_path):
    made = from_folder(touch(tmp_path, "a.mp4", "a.mkv", "a.mp4.mov", "b/a.mp4.mov"), ANY).table.to_pylist()
    assert [row["video_id"] for row in made] == ["a.mkv", "a.mp4", "a.mp4.mov", "b/a.mp4"]


def test_what_cannot_be_taken_is_listed_and_counted_and_the_rest_is_taken(tmp_path, monkeypatch, capfd):
    folder = touch(tmp_path / "v", "a.mp4", "closed/b.mp4", "caf\udce9.mp4", "caf\udce9/c.mp4", "caf\udce9/d.txt")
    (folder / "e.mp4").symlink_to("gone")
    (folder / "gone").symlink_to("gone.txt")
    os.mkfifo(folder / "f.mp4")
    os.mkfifo(folder / "pipe")
    there = os.scandir

    def scandir(path):
        if path.endswith("closed"):
            raise PermissionError
        return there(path)

    monkeypatch.setattr("os.scandir", scandir)
    expected = {
        f"{folder}/closed": UNREADABLE, f"{folder}/caf\\xe9.mp4": NO_UTF8, f"{folder}/caf\\xe9/c.mp4": NO_UTF8,
        f"{folder}/e.mp4": BROKEN_LINK, f"{folder}/f.mp4": NO_FILE,
    }  # fmt: skip
    made = from_folder(folder, ANY)
    assert (made.table["video_id"].to_pylist(), made.left_out) == (["a"], expected)
    result, notes = said(capfd, "folder", folder, "--out", tmp_path / "m.parquet")
    assert "5 files or folders are not in the manifest: " in notes
    assert result["left_out"] == expected


def test_a_folder_of_which_nothing_can_be_taken_says_why(tmp_path, monkeypatch):
    touch(tmp_path / "v", "caf\udce9.mp4")
    with pytest.raises(InputError, match=r"holds no video file; .*caf.xe9.mp4 has a name that is not UTF-8"):
        from_folder(tmp_path / "v", ANY)

    def scandir(path):
        raise PermissionError(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(InputError, match="Cannot read the folder"):
        from_folder(tmp_path / "v", ANY)


# Clips


@given(duration=st.floats(0.01, 900), seconds=st.floats(2, 60), share=st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_clips_cover_the_file_evenly_and_the_last_is_no_scrap(duration, seconds, share):
    segments = Segments(seconds, seconds * share)
    clips = segments.cut(duration)
    assert (clips[0][0], clips[-1][1]) == (0.0, None)
    for (start, end), (following, _) in itertools.pairwise(clips):
        assert abs(end - start - seconds) < 1e-5
        assert abs(following - start - segments.step) < 1e-5
    if len(clips) > 1:
        assert duration - clips[-2][1] >= segments.step / 2 - 1e-5
    assert duration - clips[-1][0] <= seconds + segments.step / 2 + 1e-5


@pytest.mark.parametrize(
    ("duration", "segments", "clips"),
    [
        (30.0, Segments(10), [(0, 10), (10, 20), (20, None)]),
        (34.9, Segments(10), [(0, 10), (10, 20), (20, None)]),
        (35.0, Segments(10), [(0, 10), (10, 20), (20, 30), (30, None)]),
        (3.0, Segments(10), [(0, None)]),
        (26.0, Segments(10, 2), [(0, 10), (8, 18), (16, None)]),
        (0.9, Segments(0.3), [(0, 0.3), (0.3, 0.6), (0.6, None)]),
    ],
)
def test_clips_of_some_files(duration, segments, clips):
    assert segments.cut(duration) == clips


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    (folder / "x").mkdir()
    make_video(folder / "x/long.mp4", frames=100, fps=10)
    make_video(folder / "short.mkv", frames=20, fps=10)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "empty.mp4").touch()
    return folder


def test_a_folder_is_cut_into_clips_that_hold_every_frame_once(films):
    made = from_folder(films, ANY, segments=Segments(3))
    assert [(row["video_id"], row["start_s"], row["end_s"]) for row in made.table.to_pylist()] == [
        ("broken", None, None), ("empty", None, None), ("short@00000.000-end", 0, None),
        ("x/long@00000.000-00003.000", 0, 3), ("x/long@00003.000-00006.000", 3, 6), ("x/long@00006.000-end", 6, None),
    ]  # fmt: skip
    assert [dict(row["attributes"]) for row in made.table.to_pylist()] == [
        {"source": name} for name in ("broken", "empty", "short", "x/long", "x/long", "x/long")
    ]
    assert {name: reason.partition(":")[0] for name, reason in made.whole.items()} == {
        "broken.mp4": "unreadable", "empty.mp4": "empty_file",
    }  # fmt: skip
    recipe = PrepareConfig(max_frames=200, policy="uniform", short_side=32, crop=32)
    clips = [row for row in made.table.to_pylist() if row["video_id"].startswith("x/")]
    times = [decode_video(c["uri"], recipe=recipe, start_s=c["start_s"], end_s=c["end_s"]).timestamps_s for c in clips]
    assert list(itertools.chain(*times)) == decode_video(films / "x/long.mp4", recipe=recipe).timestamps_s


def test_the_command_cuts_a_folder_and_says_what_stays_whole(films, tmp_path, capfd):
    out = tmp_path / "m.parquet"
    options = ["--segment", "4", "--overlap", "1", "--suffixes", "mp4"]
    result, notes = said(capfd, "folder", films, "--out", out, *options)
    assert "2 files could not be measured and are a row each, uncut: broken.mp4 (unreadable:" in notes
    assert list(result["not_segmented"]) == ["broken.mp4", "empty.mp4"]
    assert load_manifest(out)["start_s"].to_pylist() == [None, None, 0, 3, 6]


@pytest.mark.parametrize(
    "options",
    [["--segment", "0"], ["--segment", "-3"], ["--segment", "nan"], ["--segment", "inf"], ["--overlap", "1"],
     ["--segment", "3", "--overlap", "3"], ["--segment", "3", "--overlap", "-1"], ["--segment", "0.01"]],
)  # fmt: skip
def test_lengths_that_are_none_are_one_sentence(films, tmp_path, options):
    result = run("folder", films, "--out", tmp_path / "m.parquet", *options)
    assert result.exit_code == 3
    assert isinstance(result.exception, SystemExit)


# Clips in tables, and their splits


def clips_table(tmp_path, *rows):
    lines = ["file,start,end,text", *rows]
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "clips.csv"


COLUMNS = {"video_id": "file", "uri": "file", "start_s": "start", "end_s": "end", "captions": "text"}


def test_clips_of_one_file_are_rows_that_name_their_times(tmp_path):
    path = clips_table(tmp_path, "x/a.mp4,0,2.5,one", "x/a.mp4,2.5,,two", "x/a.mp4,0,2.5,three", "b.mp4,1,2,four")
    rows = from_csv(path, SourceOptions(columns=COLUMNS, split="train")).table.to_pylist()
    assert [(row["video_id"], row["captions"], row["attributes"]) for row in rows] == [
        ("a@00000.000-00002.500", ["one", "three"], [("source", "a")]),
        ("a@00002.500-end", ["two"], [("source", "a")]),
        ("b", ["four"], None),
    ]


def test_other_times_of_the_same_id_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.csv").write_text("video_id,uri,captions,start_s\na,a.mp4,x,1\na,a.mp4,y,2\n")
    with pytest.raises(InputError, match=r"line 3: 'a' has another start_s than in line 2\. Clips of one video need"):
        from_csv(tmp_path / "a.csv", SourceOptions(split="x"))


@pytest.mark.parametrize("whole", [False, True])
def test_rows_of_one_file_are_never_drawn_into_two_splits(tmp_path, whole):
    times = [",,", "0,1,", "1,2,"] if whole else ["0,1,", "1,2,", "2,3,"]
    rows = [f"v{n:03}.mp4,{time}{n} {time}" for n in range(200) for time in ([",,"] if n % 5 == 0 else times)]
    rows = [row.replace(" ,,", " whole").replace(",,", ",,", 1) for row in rows]
    lines = [row.rsplit(" ", 1)[0] for row in rows]
    path = clips_table(tmp_path, *lines)
    options = SourceOptions(columns=COLUMNS, carve={"dev": 0.2, "test": 0.2})
    made = from_csv(path, options)
    splits = {}
    for row in made.table.to_pylist():
        splits.setdefault(row["uri"], set()).add(row["split"])
    assert {len(of_file) for of_file in splits.values()} == {1}
    assert {split for of_file in splits.values() for split in of_file} == {"train", "dev", "test"}
    assert made.in_several_splits == ()
    moved = tmp_path / "moved"
    moved.mkdir()
    clips_table(moved, *reversed(lines))
    again = {row["video_id"]: row["split"] for row in from_csv(moved / "clips.csv", options).table.to_pylist()}
    assert again == {row["video_id"]: row["split"] for row in made.table.to_pylist()}


def test_clips_of_a_folder_are_drawn_with_their_file(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{n}.mp4" for n in range(60)))
    monkeypatch.setattr("pipelines.manifest.sources.folder.durations", lambda files: iter([50.0] * len(files)))
    made = from_folder(tmp_path, SourceOptions(carve={"dev": 0.3}), segments=Segments(10)).table.to_pylist()
    assert len({(row["uri"], row["split"]) for row in made}) == 60
    assert {row["split"] for row in made} == {"dev", "train"}


def test_files_whose_clips_are_in_two_splits_are_told(tmp_path):
    text = "video_id,uri,split,captions,start_s\na1,a.mp4,train,x,0\na2,a.mp4,test,y,5\nb,b.mp4,test,z,\n"
    (tmp_path / "a.csv").write_text(text)
    assert from_csv(tmp_path / "a.csv", ANY).in_several_splits == ("a.mp4",)
    result = run("csv", tmp_path / "a.csv", "--out", tmp_path / "m.parquet")
    assert "1 files have rows in more than one split, such as a.mp4" in result.output
