"""Videos of different splits that show the same."""

from __future__ import annotations

import itertools
import json
import shutil

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gare.cli import main
from gare.config.prepare import PrepareConfig
from gare.schema import MANIFEST
from pipelines.dataset.inspection.contents import read_contents
from pipelines.dataset.inspection.summary import Stretch, _overlapping, leaks
from pipelines.dataset.opening import open_output
from pipelines.prepare.process_unit import process_unit
from tests.videos import make_video

RECIPE = PrepareConfig(max_frames=2, short_side=32, crop=32, unit_videos=3)


@pytest.fixture
def prepared(tmp_path):
    """Prepare rows of (file, split, start, end), of which ``copy.mp4`` equals ``a.mp4``."""
    make_video(tmp_path / "a.mp4", frames=60)
    make_video(tmp_path / "b.mp4", frames=45)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "copy.mp4")

    def prepare(*rows):
        made = [
            {"video_id": f"{n}-{name}", "uri": str(tmp_path / f"{name}.mp4"), "split": split, "captions": ["x"]}
            | {"start_s": start, "end_s": end}
            for n, (name, split, start, end) in enumerate(rows)
        ]
        output = open_output(tmp_path / "out", pa.Table.from_pylist(made, MANIFEST), RECIPE)
        for unit in range(output.units()):
            process_unit(output, unit)
        return tmp_path / "out"

    return prepare


def test_a_file_in_two_splits_is_found_under_another_name(prepared, capfd):
    folder = prepared(("a", "train", None, None), ("b", "train", None, None), ("copy", "test", None, None))
    (group,) = leaks(read_contents(folder))
    assert [(video["video_id"], video["split"]) for video in group["videos"]] == [("2-copy", "test"), ("0-a", "train")]
    assert group["splits"] == {"test": 1, "train": 1}
    capfd.readouterr()
    for more in (["--json"], []):
        with pytest.raises(SystemExit):
            main(["inspect", str(folder), *more])
        if more:
            assert json.loads(capfd.readouterr().out)["leaks"] == [group]
    shown = capfd.readouterr()
    assert "0-a (train)" in shown.out
    assert "2 videos of different splits show the same" in " ".join(shown.err.split())


def test_clips_of_one_file_are_the_same_where_they_overlap(prepared):
    apart = [("a", "train", 0.0, 1.0), ("a", "test", 1.0, 2.0), ("copy", "dev", 2.0, None)]
    assert leaks(read_contents(prepared(*apart))) == []


def test_clips_that_overlap_are_told_with_their_bounds(prepared):
    (group,) = leaks(read_contents(prepared(("a", "train", 0.0, 1.5), ("copy", "test", 1.0, None))))
    assert [(video["start_s"], video["end_s"]) for video in group["videos"]] == [(0.0, 1.5), (1.0, None)]


def test_one_split_leaks_nothing(prepared):
    assert leaks(read_contents(prepared(("a", "train", None, None), ("copy", "train", None, None)))) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=7))
def test_groups_are_those_that_overlap_one_by_one(bounds):
    stretches = sorted(Stretch(start, start + length, "s", str(n)) for n, (start, length) in enumerate(bounds))
    groups = list(_overlapping(stretches))
    assert [one for group in groups for one in group] == stretches
    of = {one: number for number, group in enumerate(groups) for one in group}
    for one, other in itertools.combinations(stretches, 2):
        if one.start_s < other.end_s and other.start_s < one.end_s:
            assert of[one] == of[other]
    for group in groups:
        for number, one in enumerate(group[1:], start=1):
            assert any(one.start_s < other.end_s for other in group[:number])
