"""What all benchmarks share: the counts add up, nothing is lost silently, nothing is written by half."""

from __future__ import annotations

import csv
import pickle

import pytest

from gare.cli import main
from gare.common.errors import InputError
from gare.schema import TAKEN_FROM
from pipelines.manifest.benchmarks import BENCHMARKS
from pipelines.manifest.load import load_manifest
from tests.unit.benchmarks.made import make, reading, touch, write

ABSENT = {
    "msrvtt": "MSRVTT_train.9k.csv, MSRVTT_data.json, MSRVTT_val.full.csv and MSRVTT_JSFUSION_test.csv",
    "didemo": "train_data.json, val_data.json and test_data.json",
    "activitynet": "train.json and val_1.json",
    "msvd": "train_list.txt, raw-captions.pkl, val_list.txt and test_list.txt",
    "lsmdc": "LSMDC16_annos_training.csv, LSMDC16_annos_val.csv and LSMDC16_challenge_1000_publictect.csv",
}


@pytest.fixture
def msvd(tmp_path):
    """Videos a to h in train, i and j in dev, k and l in test; b and k lack a file, c lacks captions."""
    captions = {name: [["a", name], [], ["b"]] for name in "abcdefghijkl"} | {"c": [[" "]]}
    lists = {"train_list.txt": "\n".join("abcdefgh"), "val_list.txt": "i\nj\n", "test_list.txt": "k\nl\n"}
    annotations = write(tmp_path / "annotations", {**lists, "raw-captions.pkl": pickle.dumps(captions)})
    return annotations, touch(tmp_path / "videos", [f"{name}.avi" for name in "acdefghijl"])


def test_the_counts_add_up_and_missing_videos_are_listed_in_full(msvd, command, tmp_path):
    out = tmp_path / "m.parquet"
    code, result, said = command("msvd", *msvd, out)
    assert code == 0
    for split, counts in result["splits"].items():
        gone = counts["taken_for_dev"] + counts["uncaptioned"] + counts["missing"]
        assert counts["annotated"] == gone + counts["videos"], split
    train = result["splits"]["train"]
    assert (train["annotated"], train["uncaptioned"], train["missing"], train["videos"]) == (8, 1, 1, 6)
    assert (train["published"], train["captions"], train["empty_captions"]) == (1200, 12, 8)
    assert result["missing"] == 2
    listed = list(csv.DictReader((tmp_path / "m.parquet.missing.csv").read_text().splitlines()))
    assert result["missing_list"] == f"{out}.missing.csv"
    assert listed == [
        {"video_id": "b", "split": "train", "file": "b"},
        {"video_id": "k", "split": "test", "file": "k"},
    ]
    assert f"2 videos (b, k) are missing in {msvd[1]} and not in the manifest; {out}.missing.csv lists them" in said
    assert "8 empty captions of the train split were dropped" in said
    assert list(reading(out)) == list("adefghijl")


def test_a_manifest_made_anew_leaves_no_old_list_of_missing_videos(msvd, command, tmp_path):
    out = tmp_path / "m.parquet"
    command("msvd", *msvd, out)
    touch(msvd[1], ["b.mp4", "k.mp4"])
    _, result, _ = command("msvd", *msvd, out)
    assert (result["missing"], result["missing_list"]) == (0, None)
    assert (tmp_path / "m.parquet.missing.csv").read_text().splitlines() == ["video_id,split,file"]


def test_strict_writes_nothing_where_a_video_is_missing(msvd, command, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.manifest.benchmarks.build.Counts.differences", lambda _: [])
    out = tmp_path / "m.parquet"
    code, result, _ = command("msvd", *msvd, out, "--strict")
    assert code == 3
    assert "2 videos (b, k) are missing in" in result["error"]
    assert not list(tmp_path.glob("m.parquet*"))
    touch(msvd[1], ["b.mp4", "k.mp4"])
    assert command("msvd", *msvd, out, "--strict")[0] == 0
    (msvd[0] / "val_list.txt").unlink()
    code, result, _ = command("msvd", *msvd, out, "--strict")
    assert code == 3
    assert "the split dev has no val_list.txt" in result["error"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_folder_without_annotations_names_the_files_looked_for(benchmark, command, tmp_path):
    annotations, videos = touch(tmp_path / "annotations", ["readme"]), touch(tmp_path / "videos", ["a.mp4"])
    code, result, _ = command(benchmark, annotations, videos, tmp_path / "m")
    assert code == 3
    assert result["error"].endswith(f"it was searched for {ABSENT[benchmark]}.")
    code, result, _ = command(benchmark, tmp_path / "none", videos, tmp_path / "m")
    assert code == 3
    assert "--annotations is the folder" in result["error"]


def test_videos_that_are_all_missing_are_an_error(msvd, command, tmp_path):
    code, result, _ = command("msvd", msvd[0], touch(tmp_path / "others", ["z.mp4"]), tmp_path / "m")
    assert code == 3
    assert "None of 11 videos has a file in" in result["error"]
    assert not (tmp_path / "m").exists()


def test_an_annotation_file_is_never_overwritten(msvd, command):
    before = (msvd[0] / "train_list.txt").read_bytes()
    code, result, _ = command("msvd", *msvd, msvd[0] / "train_list.txt")
    assert code == 3
    assert "is an annotation file" in result["error"]
    assert (msvd[0] / "train_list.txt").read_bytes() == before


def test_several_files_of_a_video_are_pointed_out(msvd, command, tmp_path):
    touch(msvd[1], ["more/a.mp4"])
    _, result, said = command("msvd", *msvd, tmp_path / "m.parquet")
    assert result["several_files"] == 1
    assert f"such as {msvd[1]}/a.avi and not {msvd[1]}/more/a.mp4 for a" in said


def test_paths_are_absolute_and_those_of_links_stay(msvd, command, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(msvd[1])
    monkeypatch.chdir(tmp_path)
    assert command("msvd", "annotations", "link", "m.parquet")[0] == 0
    assert reading(tmp_path / "m.parquet")["a"]["uri"] == str(tmp_path / "link/a.avi")


def test_a_path_that_is_no_text_is_one_sentence(msvd, tmp_path):
    videos = msvd[1].rename(tmp_path / "caf\udce9")
    with pytest.raises(InputError, match=r"caf.xe9/.* has a name that is not UTF-8"):
        make("msvd", msvd[0], videos)


def test_a_folder_in_place_of_an_annotation_file_is_one_sentence(msvd):
    (msvd[0] / "val_list.txt").unlink()
    (msvd[0] / "val_list.txt").mkdir()
    with pytest.raises(InputError, match=r"Cannot read .*val_list.txt: Is a directory"):
        make("msvd", *msvd)


def test_a_dev_split_carved_from_a_csv_file_says_so_too(tmp_path):
    lines = [f"v{n},v{n}.mp4,text,blue,elsewhere" for n in range(200)]
    (tmp_path / "a.csv").write_text("\n".join(["video_id,uri,captions,colour,taken_from", *lines]))
    out = tmp_path / "m.parquet"
    words = ["manifest", "csv", str(tmp_path / "a.csv"), "--out", str(out), "--attributes", "colour,taken_from"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--carve", "dev=0.2,test=0.2"])
    assert ended.value.code == 0
    table = load_manifest(out).to_pylist()
    marks = {
        split: {tuple(row["attributes"]) for row in table if row["split"] == split}
        for split in ("train", "dev", "test")
    }
    colour, before, after = ("colour", "blue"), (TAKEN_FROM, "elsewhere"), (TAKEN_FROM, "train")
    assert marks == {"train": {(colour, before)}, "dev": {(colour, after)}, "test": {(colour, before)}}
