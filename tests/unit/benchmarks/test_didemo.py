from __future__ import annotations

import itertools
import json
import shutil

import pytest

from gare.common.errors import InputError
from tests.unit.benchmarks.made import ids, make, numbers, rows, touch, write


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
