from __future__ import annotations

import itertools
import json
import shutil

import pytest

from gare.common.errors import InputError
from tests.unit.benchmarks.made import ids, make, numbers, reading, rows, touch, write


def described(*pairs):
    return [{"video": video, "description": text, "times": [[0, 0]], "num_segments": 6} for video, text in pairs]


def test_the_validation_split_has_the_published_number_of_videos_under_any_extension(fixtures_dir, tmp_path):
    source = fixtures_dir / "annotations" / "didemo" / "val_data.json"
    annotations = touch(tmp_path / "annotations", [])
    shutil.copyfile(source, annotations / "val_data.json")
    names = list(dict.fromkeys(row["video"] for row in json.loads(source.read_text())))
    assert len(names) == 1094
    endings = itertools.cycle([".mov", ".MP4", ".Avi", ".", "", ".unheard-of"])
    files = {name.rpartition(".")[0]: ending for name, ending in zip(names, endings, strict=False)}
    videos = touch(tmp_path / "videos", [f"{n % 7}/{stem}{end}" for n, (stem, end) in enumerate(files.items())])
    made = make("didemo", annotations, videos)
    assert numbers(made) == {"dev": (1065, 1065)}
    assert made.counts["dev"].differences() == []
    assert (made.counts["dev"].annotated_captions, made.missing, made.several) == (4180, [], {})
    assert {(row["start_s"], row["end_s"]) for row in made.table.to_pylist()} == {(0.0, 30.0)}


def test_descriptions_are_joined_in_file_order_over_both_names_of_a_video(tmp_path):
    pairs = [("a@N1_x.mov", " one."), ("b.avi", "other"), ("a@N1_x.mp4", "two "), ("a@N1_x.mov", "three"), ("b.", " ")]
    annotations = write(tmp_path / "annotations", {"test_data.json": described(*pairs)})
    made = make("didemo", annotations, touch(tmp_path / "videos", ["a@N1_x.MOV", "b"]))
    assert {v: row["captions"] for v, row in rows(made.table).items()} == {"a@N1_x": ["one. two three"], "b": ["other"]}
    assert made.counts["test"].empty_captions == 1
    assert made.absent == {"train": ["train_data.json"], "dev": ["val_data.json"]}


def test_the_published_name_wins_over_others_of_the_same_stem(tmp_path):
    annotations = write(tmp_path / "annotations", {"test_data.json": described(("a.mov", "x"), ("a.avi", "y"))})
    videos = touch(tmp_path / "videos", ["a.3gp", "deep/er/a.mov", "a.avi"])
    made = make("didemo", annotations, videos)
    assert rows(made.table)["a"]["uri"] == str(videos / "deep/er/a.mov")
    (videos / "deep/er/a.mov").unlink()
    assert rows(make("didemo", annotations, videos).table)["a"]["uri"] == str(videos / "a.avi")


def test_a_video_that_was_converted_under_its_whole_old_name_is_found(tmp_path):
    annotations = write(tmp_path / "annotations", {"test_data.json": described(("a.mov", "x"))})
    made = make("didemo", annotations, touch(tmp_path / "videos", ["a.mov.mp4"]))
    assert ids(made, "test") == ["a"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "is not a list of descriptions"),
        ([[]], "description 1 has no text under 'video'"),
        ([{"video": "a.mov"}], "description 1 has no text under 'description'"),
        ([{"video": ["a.mov"], "description": "x"}], "description 1 has no text under 'video'"),
        ([], "names no video"),
        ('[{"video": "a.mov", "descr', "not valid JSON"),
    ],
)
def test_annotations_that_cannot_be_used_are_one_sentence(tmp_path, content, says):
    annotations = write(tmp_path / "annotations", {"val_data.json": content})
    with pytest.raises(InputError, match=says):
        make("didemo", annotations, touch(tmp_path / "videos", ["a.mov"]))


def test_moments_are_rows_of_the_segments_most_annotators_gave(tmp_path, command):
    described_at = [
        ("a.mov", "one", [[0, 1], [2, 2], [2, 2]]),
        ("a.mov", "two", [[5, 5], [4, 5]]),
        ("a.mp4", " three ", [[2, 2]]),
        ("a.mov", " ", [[0, 5]]),
        ("b.mov", "four", [[0, 0]]),
    ]
    annotations = write(
        tmp_path / "annotations",
        {"test_data.json": [{"video": v, "description": d, "times": t} for v, d, t in described_at]},
    )
    videos = touch(tmp_path / "videos", ["a.mov", "b.mov"])
    code, result, said = command("didemo", annotations, videos, tmp_path / "m.parquet", "--moments")
    assert (code, result["rows"], result["videos"]) == (0, 3, 2)
    assert "3 moments of 2 videos are a row each" in said
    held = reading(tmp_path / "m.parquet")
    assert {v: (row["start_s"], row["end_s"], row["captions"]) for v, row in held.items()} == {
        "a@00010.000-00015.000": (10.0, 15.0, ["one", "three"]),
        "a@00025.000-00030.000": (25.0, 30.0, ["two"]),
        "b@00000.000-00005.000": (0.0, 5.0, ["four"]),
    }
    assert [row["attributes"] for row in held.values()] == [{"source": "a"}, {"source": "a"}, {"source": "b"}]


def test_every_published_description_has_a_moment(fixtures_dir, tmp_path):
    source = fixtures_dir / "annotations" / "didemo" / "val_data.json"
    annotations = touch(tmp_path / "annotations", [])
    shutil.copyfile(source, annotations / "val_data.json")
    names = {row["video"].rpartition(".")[0] for row in json.loads(source.read_text())}
    made = make("didemo", annotations, touch(tmp_path / "videos", [f"{name}.mp4" for name in names]), moments=True)
    assert (made.counts["dev"].videos, made.counts["dev"].captions) == (1065, 4180)
    rows_ = made.table.to_pylist()
    assert len({dict(row["attributes"])["source"] for row in rows_}) == 1065
    assert all(row["end_s"] - row["start_s"] in {5.0, 10.0, 15.0, 20.0, 25.0, 30.0} for row in rows_)
    assert max(row["end_s"] for row in rows_) == 30.0


@pytest.mark.parametrize(
    "times", [None, [], [[0]], [[0, 6]], [[3, 2]], [[-1, 2]], [[0.5, 1]], [[True, True]], ["01"], 5]
)
def test_times_that_are_none_are_one_sentence(tmp_path, times):
    annotations = write(
        tmp_path / "annotations", {"test_data.json": [{"video": "a.mov", "description": "x", "times": times}]}
    )
    videos = touch(tmp_path / "videos", ["a.mov"])
    with pytest.raises(InputError, match="description 1 has no times in segments of 5 s"):
        make("didemo", annotations, videos, moments=True)
    assert ids(make("didemo", annotations, videos), "test") == ["a"]
