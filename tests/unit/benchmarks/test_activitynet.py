from __future__ import annotations

import pytest

from gare.common.errors import InputError
from tests.unit.benchmarks.made import ids, make, reading, rows, touch, write

TRAIN = [f"v_train{n:03}" for n in range(200)]
TEST = ["v_AbC-_1", "v_abC-_1", "v_x"]


def described(video_ids):
    return {
        v: {"duration": 9.5, "timestamps": [[0, 1], [1, 2]], "sentences": [f"{v} one.", " two. "]} for v in video_ids
    }


@pytest.fixture
def small(tmp_path):
    annotations = write(tmp_path / "annotations", {"train.json": described(TRAIN), "val_1.json": described(TEST)})
    return annotations, touch(tmp_path / "videos", [f"{v}.mp4" for v in [*TRAIN, *TEST]])


def test_sentences_are_one_paragraph_and_dev_is_drawn_from_train(small):
    made = make("activitynet", *small, dev_share=0.1)
    train, dev = ids(made, "train"), ids(made, "dev")
    assert sorted(train + dev) == TRAIN
    assert 5 <= len(dev) <= 40
    assert ids(made, "test") == TEST
    held = rows(made.table)
    assert held["v_x"]["captions"] == ["v_x one. two."]
    assert {held[v]["attributes"].get("taken_from") for v in dev} == {"train"}
    assert not any(held[v]["attributes"] for v in train + TEST)
    counts = made.counts["train"]
    assert (counts.annotated, counts.taken_for_dev, counts.videos) == (200, len(dev), 200 - len(dev))


def test_dev_depends_on_ids_and_seed_alone(small):
    annotations, videos = small
    first = make("activitynet", annotations, videos, seed=1)
    write(annotations, {"train.json": described(reversed(TRAIN))})
    (videos / f"{ids(first, 'train')[0]}.mp4").unlink()
    assert sorted(ids(make("activitynet", annotations, videos, seed=1), "dev")) == sorted(ids(first, "dev"))
    assert ids(make("activitynet", annotations, videos, seed=2), "dev") != ids(first, "dev")


def test_ids_that_differ_in_case_alone_are_two_videos(small):
    annotations, videos = small
    held = rows(make("activitynet", annotations, videos).table)
    assert held["v_AbC-_1"]["uri"] == str(videos / "v_AbC-_1.mp4")
    assert held["v_abC-_1"]["uri"] == str(videos / "v_abC-_1.mp4")
    (videos / "v_abC-_1.mp4").unlink()
    assert [video.video_id for video in make("activitynet", annotations, videos).missing] == ["v_abC-_1"]


def test_files_named_by_the_youtube_id_alone_are_found(small, tmp_path):
    (small[1] / "v_x.mp4").rename(small[1] / "x.MKV")
    assert rows(make("activitynet", *small).table)["v_x"]["uri"] == str(small[1] / "x.MKV")


def test_the_lists_of_ids_say_which_videos_count(small):
    annotations, videos = small
    write(annotations, {"val_ids.json": ["v_x", "v_AbC-_1", "v_never"], "train_ids.json": TRAIN})
    made = make("activitynet", annotations, videos)
    assert ids(made, "test") == ["v_AbC-_1", "v_x"]
    assert made.notes == [
        "1 videos of val_ids.json are not in val_1.json and were left out.",
        "1 videos of val_1.json are not in val_ids.json and were left out.",
    ]


def test_without_train_there_is_no_dev(small, command, tmp_path):
    (small[0] / "train.json").unlink()
    code, result, _ = command("activitynet", *small, tmp_path / "m.parquet")
    assert (code, set(result["splits"])) == (0, {"test"})
    assert list(reading(tmp_path / "m.parquet")) == TEST


def test_a_share_that_is_none_is_a_mistake_of_the_command_line(small, command, tmp_path):
    code, result, _ = command("activitynet", *small, tmp_path / "m.parquet", "--dev-share", "1")
    assert code == 2
    assert "--dev-share" in result["error"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("val_1.json", [], "is not an object of videos"),
        ("val_1.json", {}, "names no video"),
        ("val_1.json", {"v_x": []}, "'v_x' has no list of sentences"),
        ("val_1.json", {"v_x": {"sentences": "one"}}, "'v_x' has no list of sentences"),
        ("val_1.json", {"v_x": {"sentences": ["one", None]}}, "'v_x' has no list of sentences"),
        ("val_1.json", {"\ud800": {"sentences": ["one"]}}, "not valid Unicode"),
        ("train.json", {"v_\x00": {"sentences": ["one"]}}, "cannot be the name of a file"),
        ("val_ids.json", {"v_x": 1}, "is not a list of ids"),
        ("val_ids.json", [1], "is not a list of ids"),
        ("val_ids.json", ["v_never"], "names no video"),
        ("train.json", {"v_x": {"sentences": ["one"]}, "v_y": {"sentences": ["one"]}}, "none falls into dev"),
    ],
)
def test_annotations_that_cannot_be_used_are_one_sentence(small, name, content, says):
    write(small[0], {name: content})
    with pytest.raises(InputError, match=says):
        make("activitynet", *small)


def test_moments_are_rows_within_their_videos_and_splits(small):
    annotations, videos = small
    times = [[0.5, 3], [8, 12.25], [3, 3], [11, 12], [-1, 2], [0.5, 3]]
    texts = ["one", "two", "no time", "beyond", "three", " four"]
    write(annotations, {"val_1.json": {"v_x": {"duration": 10.0, "timestamps": times, "sentences": texts}}})
    made = make("activitynet", annotations, videos, moments=True, dev_share=0.2)
    held = rows(made.table)
    assert {
        v: (row["start_s"], row["end_s"], row["captions"]) for v, row in held.items() if row["split"] == "test"
    } == {
        "v_x@00000.500-00003.000": (0.5, 3.0, ["one", "four"]),
        "v_x@00008.000-00010.000": (8.0, 10.0, ["two"]),
        "v_x@00000.000-00002.000": (0.0, 2.0, ["three"]),
    }
    assert "2 moments of val_1.json have no time within their video and were left out." in made.notes
    splits = {}
    for row in held.values():
        splits.setdefault(row["attributes"]["source"], set()).add(row["split"])
    assert {len(of_video) for of_video in splits.values()} == {1}
    assert {row["attributes"].get("taken_from") for row in held.values() if row["split"] == "dev"} == {"train"}
    whole = make("activitynet", annotations, videos, dev_share=0.2)
    assert {v for v, of_video in splits.items() if of_video == {"dev"}} == set(ids(whole, "dev"))


@pytest.mark.parametrize(
    "change",
    [
        {"timestamps": None},
        {"timestamps": [[0, 1]]},
        {"timestamps": [[0, 1], [1]]},
        {"timestamps": [[0, 1], [1, "2"]]},
        {"timestamps": [[0, 1], [1, float("nan")]]},
        {"timestamps": [[0, 1], [1, 10**400]]},
        {"duration": "9"},
    ],
)
def test_moments_without_times_are_one_sentence(small, change):
    write(small[0], {"val_1.json": {"v_x": described(["v_x"])["v_x"] | change}})
    with pytest.raises(InputError, match="'v_x' has no start and end for each sentence"):
        make("activitynet", *small, moments=True)
