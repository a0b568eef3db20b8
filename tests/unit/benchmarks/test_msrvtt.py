from __future__ import annotations

import json
import shutil

import pytest

from gare.common.errors import InputError
from pipelines.manifest.benchmarks.msrvtt import CATEGORIES, FULL_INSIDE_9K
from tests.unit.benchmarks.made import ids, make, numbers, reading, rows, touch, write

DATA = "MSRVTT_data.json"


def data(video_ids, captions=2, splits=None):
    """MSRVTT_data.json of these videos."""
    splits = splits or {}
    return {
        "videos": [
            {"video_id": v, "split": splits.get(v, "train"), "category": n % 20, "url": "u", "start time": 1.5}
            for n, v in enumerate(video_ids)
        ],
        "sentences": [{"video_id": v, "sen_id": n, "caption": f"{v} {n} "} for v in video_ids for n in range(captions)],
    }


def listing(*video_ids):
    return "\n".join(["video_id", *video_ids, ""])


def queries(*video_ids):
    rows = [f"ret{n},msr{n},{v},query of {v}" for n, v in enumerate(video_ids)]
    return "\n".join(["key,vid_key,video_id,sentence", *rows, ""])


@pytest.fixture
def small(tmp_path):
    """Train a, b, c; dev c, d; test e; one file for each."""
    files = {
        DATA: data("abcde"),
        "MSRVTT_train.9k.csv": listing("a", "b", "c"),
        "MSRVTT_val.full.csv": listing("c", "d"),
        "MSRVTT_JSFUSION_test.csv": queries("e"),
    }
    return write(tmp_path / "annotations", files), touch(tmp_path / "videos", [f"{v}.mp4" for v in "abcde"])


@pytest.fixture(scope="module")
def real(fixtures_dir, tmp_path_factory):
    """The published lists, made captions for their videos, and an empty file for each."""
    folder = shutil.copytree(fixtures_dir / "annotations" / "msrvtt", tmp_path_factory.mktemp("msrvtt") / "lists")
    names = [f"video{n}" for n in range(10000)]
    (folder / DATA).write_text(json.dumps(data(names, captions=20)))
    return folder, touch(folder / "videos", [f"{name}.mp4" for name in names])


def test_the_9k_protocol_has_its_published_numbers_and_no_leak(real):
    made = make("msrvtt", *real, strict=True)
    assert numbers(made) == {"train": (8503, 170_060), "dev": (497, 9940), "test": (1000, 1000)}
    assert made.counts["train"].taken_for_dev == 497
    splits = [set(ids(made, split)) for split in ("train", "dev", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 10_000
    held = rows(made.table)
    assert {held[v]["attributes"].get("taken_from") for v in splits[1]} == {"train"}
    assert not any("taken_from" in held[v]["attributes"] for v in splits[0] | splits[2])
    assert held["video9770"]["captions"] == ["a person is connecting something to system"]
    assert held["video7"]["captions"] == [f"video7 {n}" for n in range(20)]
    assert held["video7"]["attributes"]["category"] == "movie/comedy"


@pytest.mark.parametrize(("test", "of_test"), [("1k-A", (1000, 1000)), ("full", (2990, 59_800))])
def test_the_7k_list_goes_with_both_test_splits(real, test, of_test):
    made = make("msrvtt", *real, train="7k", test=test, strict=True)
    assert numbers(made) == {"train": (6513, 130_260), "dev": (497, 9940), "test": of_test}


def test_the_9k_list_is_refused_with_the_full_test_split_it_holds(real, command, tmp_path):
    folder, videos = real
    lists = [set((folder / f"MSRVTT_{name}.csv").read_text().split()[1:]) for name in ("train.9k", "test.full")]
    assert len(lists[0] & lists[1]) == FULL_INSIDE_9K
    code, result, _ = command("msrvtt", folder, videos, tmp_path / "m", "--train", "9k", "--test", "full")
    assert (code, result.keys()) == (3, {"error"})
    assert "--train 9k holds 1,990 of the 2,990 videos of --test full" in result["error"]
    assert not (tmp_path / "m").exists()


def test_dev_is_taken_out_of_train_and_says_so(small):
    made = make("msrvtt", *small)
    assert [ids(made, split) for split in ("train", "dev", "test")] == [["a", "b"], ["c", "d"], ["e"]]
    held = rows(made.table)
    assert held["c"]["attributes"] == {"category": CATEGORIES[2], "taken_from": "train"}
    assert held["d"]["attributes"] == {"category": CATEGORIES[3]}
    assert held["e"]["captions"] == ["query of e"]
    counts = made.counts["train"]
    assert (counts.published, counts.annotated, counts.taken_for_dev, counts.videos) == (9000, 3, 1, 2)


def test_without_its_list_dev_is_what_the_captions_file_says(small):
    annotations, videos = small
    (annotations / "MSRVTT_val.full.csv").unlink()
    assert make("msrvtt", annotations, videos).absent == {"dev": ["MSRVTT_val.full.csv"]}
    write(annotations, {DATA: data("abcde", splits={"b": "validate"})})
    made = make("msrvtt", annotations, videos)
    assert (ids(made, "train"), ids(made, "dev"), made.absent) == (["a", "c"], ["b"], {})


def test_the_test_list_alone_is_enough_for_an_evaluation(small, command, tmp_path):
    annotations, videos = small
    for path in annotations.iterdir():
        if "JSFUSION" not in path.name:
            path.unlink()
    code, result, said = command("msrvtt", annotations, videos, tmp_path / "m.parquet")
    assert code == 0
    assert result["absent"] == {"train": ["MSRVTT_train.9k.csv", DATA], "dev": ["MSRVTT_val.full.csv", DATA]}
    assert f"There is no train split: {annotations} does not hold MSRVTT_train.9k.csv and {DATA}." in said
    assert list(reading(tmp_path / "m.parquet")) == ["e"]
    assert command("msrvtt", annotations, videos, tmp_path / "n", "--strict")[0] == 3


def test_a_video_in_train_and_test_is_an_error_that_names_it(small):
    annotations, videos = small
    write(annotations, {"MSRVTT_JSFUSION_test.csv": queries("e", "b", "a", "d")})
    with pytest.raises(InputError, match=r"2 videos \(a, b\) are in both train and test"):
        make("msrvtt", annotations, videos)
    write(annotations, {"MSRVTT_JSFUSION_test.csv": queries("e", "d")})
    with pytest.raises(InputError, match=r"1 video \(d\) is in both dev and test"):
        make("msrvtt", annotations, videos)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (DATA, "", "not valid JSON: line 1 column 1"),
        (DATA, '{"videos": [', "not valid JSON: line 1 column 13"),
        (DATA, "[" * 100_000, "JSON with a value that cannot be read"),
        (DATA, b'{"videos": "\xff"}', "is not UTF-8 text"),
        (DATA, "[]", "is not an object with videos and sentences; is it the file as published"),
        (DATA, {"videos": [], "sentence": []}, "sentences is not a list"),
        (DATA, {"videos": [], "sentences": {}}, "sentences is not a list"),
        (DATA, {"videos": None, "sentences": []}, "videos is not a list"),
        (DATA, {"videos": [3], "sentences": []}, "video 1 has no text under 'video_id'"),
        (DATA, {"videos": [], "sentences": [{"video_id": "a"}]}, "sentence 1 has no text under 'caption'"),
        (DATA, {"videos": [], "sentences": [{"video_id": 1, "caption": "x"}]}, "no text under 'video_id'"),
        (DATA, {"videos": [{"video_id": "a", "category": 20}], "sentences": []}, "category 20, which is not 0 to 19"),
        (DATA, {"videos": [{"video_id": "a", "category": "x"}], "sentences": []}, "category 'x'"),
        (DATA, '{"videos": [], "sentences": [{"video_id": "a", "caption": "\\ud800"}]}', "not valid Unicode"),
        ("MSRVTT_train.9k.csv", "", "no column video_id"),
        ("MSRVTT_train.9k.csv", "video_id\n", "names no video"),
        ("MSRVTT_train.9k.csv", "id\na\n", "no column video_id; its columns are id"),
        ("MSRVTT_train.9k.csv", "video_id\na\na\n", "names the video 'a' more than once"),
        ("MSRVTT_train.9k.csv", "video_id\na,b\n", "line 2 has 2 cells, and not 1 as the header"),
        ("MSRVTT_train.9k.csv", 'video_id\n"a\n', "not valid CSV"),
        ("MSRVTT_train.9k.csv", b"video_id\n\xff\n", "is not UTF-8"),
        ("MSRVTT_train.9k.csv", "video_id\n\x07\n", "cannot be the name of a file"),
        ("MSRVTT_JSFUSION_test.csv", "video_id\na\n", "no column sentence"),
    ],
)
def test_annotations_that_cannot_be_used_are_one_sentence(small, name, content, says):
    annotations, videos = small
    write(annotations, {name: content})
    with pytest.raises(InputError) as error:
        make("msrvtt", annotations, videos)
    assert says in str(error.value)
    assert name in str(error.value) or "Unicode" in says
    assert len(str(error.value).splitlines()) == 1


def test_fewer_captions_than_published_are_pointed_out(small, command, tmp_path):
    _, _, said = command("msrvtt", *small, tmp_path / "m.parquet")
    assert "has 3 videos where 9,000 are published" in said
    assert "has 6 captions where 180,000 are published" in said
    _, result, _ = command("msrvtt", *small, tmp_path / "n", "--strict")
    assert "the split train has 3 videos where 9,000 are published" in result["error"]
    assert not (tmp_path / "n").exists()
