"""Finding the files of videos by name."""

from __future__ import annotations

import os
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.common.errors import InputError
from pipelines.manifest.benchmarks.videos import BESIDE_VIDEOS, find_videos, stem_of
from pipelines.manifest.files import BROKEN_LINK, UNREADABLE
from tests.unit.benchmarks.made import touch


def found(root, *video_ids, **names):
    wanted = {video_id: (video_id,) for video_id in video_ids} | names
    return {v: os.path.relpath(path, root) for v, path in find_videos(wanted, root).files.items()}


def test_any_extension_in_any_case_and_any_folder_is_found(tmp_path):
    touch(tmp_path, ["a.MP4", "x/b.Mov", "x/y/c.", "d", "e.unheard", "z/f.g.h.avi"])
    assert found(tmp_path, *"abcde", "f.g.h", "f.g", "g") == {
        "a": "a.MP4", "b": "x/b.Mov", "c": "x/y/c.", "d": "d", "e": "e.unheard", "f.g.h": "z/f.g.h.avi",
    }  # fmt: skip


def test_the_nearest_file_is_taken_and_the_others_are_named(tmp_path):
    touch(tmp_path, ["x/y/a.mp4", "z/a.mp4", "z/a.avi", "b.mp4"])
    result = find_videos({"a": ("a",), "b": ("b",)}, tmp_path)
    assert [os.path.relpath(path, tmp_path) for path in result.several["a"]] == ["z/a.avi", "z/a.mp4", "x/y/a.mp4"]
    assert result.files["a"] == str(tmp_path / "z/a.avi")
    assert result.several.keys() == {"a"}


def test_what_lies_beside_a_video_is_no_video(tmp_path):
    touch(tmp_path, ["a.json", "a.JPG", "a.mp4.part", "b.mp4", "b.wav", "c.txt"])
    assert found(tmp_path, *"abc") == {"b": "b.mp4"}
    assert "mp4" not in BESIDE_VIDEOS


def test_case_tells_videos_apart_only_where_both_are_there(tmp_path):
    touch(tmp_path, ["Ab.mp4", "aB.mp4", "CD.mp4"])
    assert found(tmp_path, "Ab", "aB", "cd") == {"Ab": "Ab.mp4", "aB": "aB.mp4", "cd": "CD.mp4"}
    assert found(tmp_path, "Ab", "cd", "Cd") == {"Ab": "Ab.mp4", "cd": "CD.mp4"}


def test_links_are_followed_and_lead_nowhere_twice(tmp_path):
    root, elsewhere = touch(tmp_path / "root", ["a.mp4"]), touch(tmp_path / "elsewhere", ["deep/b.mp4"])
    (root / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "c.mp4").symlink_to(elsewhere / "deep/b.mp4")
    (root / "d.mp4").symlink_to(tmp_path / "gone.mp4")
    (root / "e.mp4").symlink_to("e.mp4")
    assert found(root, *"abcde") == {"a": "a.mp4", "b": "more/deep/b.mp4", "c": "c.mp4"}
    assert find_videos({"a": ("a",)}, root).left_out == dict.fromkeys([f"{root}/d.mp4", f"{root}/e.mp4"], BROKEN_LINK)
    (tmp_path / "also").symlink_to(root)
    assert find_videos({"a": ("a",)}, tmp_path / "also").files == {"a": str(tmp_path / "also/a.mp4")}


def test_two_names_of_one_file_are_one_file(tmp_path):
    touch(tmp_path, ["a.mp4"])
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.mp4").symlink_to(tmp_path / "a.mp4")
    assert find_videos({"a": ("a",)}, tmp_path).several == {}


def test_what_is_no_regular_file_is_no_video(tmp_path):
    touch(tmp_path, ["b.mp4"])
    (tmp_path / "a.mp4").mkdir()
    os.mkfifo(tmp_path / "c.mp4")
    assert found(tmp_path, *"abc") == {"b": "b.mp4"}


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, ["a.mp4", "closed/b.mp4"])
    there = os.scandir

    def scandir(folder):
        if folder.endswith("closed"):
            raise PermissionError
        return there(folder)

    monkeypatch.setattr("os.scandir", scandir)
    result = find_videos({"a": ("a",)}, tmp_path)
    assert (list(result.files), result.left_out) == (["a"], {str(tmp_path / "closed"): UNREADABLE})


def test_a_name_in_another_encoding_harms_nothing(tmp_path):
    touch(tmp_path, ["a.mp4"])
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    assert found(tmp_path, "a", "caf") == {"a": "a.mp4"}


@pytest.mark.parametrize("names", [[], ["x/readme.txt"]])
def test_a_folder_without_videos_is_one_sentence(tmp_path, names):
    with pytest.raises(InputError, match="holds no video file; --videos is the folder"):
        find_videos({"a": ("a",)}, touch(tmp_path / "videos", names))
    with pytest.raises(InputError, match="There is no folder"):
        find_videos({"a": ("a",)}, tmp_path / "none")


NAME = st.text("aAb.", min_size=1, max_size=4).filter(lambda name: name.strip("."))
FILES = st.dictionaries(
    st.tuples(st.sampled_from(["", "x/", "x/y/", "z/"]), NAME, st.sampled_from(["", ".", ".mp4", ".MOV"])).map("".join),
    st.none(),
    max_size=6,
)


def plainly(wanted, root):
    """The rule without an index: every file is looked at for every video."""
    paths = [str(path) for path in root.rglob("*") if path.is_file() and "/." not in str(path)]
    paths.sort(key=lambda path: (path.count("/"), path.split("/")))
    files = {}
    for fits in (
        lambda name, want: name == want,
        lambda name, want: stem_of(name) == want,
        lambda name, want: name.lower() == want.lower(),
        lambda name, want: stem_of(name).lower() == want.lower(),
    ):
        for video_id in wanted:
            free = [p for p in paths if p not in files.values() and fits(p.rpartition("/")[2], video_id)]
            if video_id not in files and free:
                files[video_id] = free[0]
    return files


@settings(max_examples=150)
@given(files=FILES, wanted=st.lists(NAME, max_size=5, unique=True))
def test_the_index_finds_what_a_plain_search_finds(tmp_path_factory, files, wanted):
    root = touch(tmp_path_factory.mktemp("videos"), ["0.mp4"])
    for file in files:
        if not any(other != file and other.startswith(file + "/") for other in files):
            touch(root, [file])
    got = find_videos({name: (name,) for name in wanted}, root)
    assert got.files == plainly(wanted, root)
    assert len(set(got.files.values())) == len(got.files)


@given(stem=st.text(string.ascii_letters + ".@_-", min_size=1), suffix=st.text(string.ascii_letters, max_size=4))
def test_a_stem_loses_the_last_extension_alone(stem, suffix):
    assert stem_of(f"{stem}.{suffix}") == stem
