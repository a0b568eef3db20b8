"""The toy corpus: the same every time, fair splits, and nothing to be told from one frame."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from gare.cli.prepare import corpus
from gare.common.errors import InputError
from gare.common.files import file_digest
from pipelines.synthetic import write_corpus
from pipelines.synthetic.captions import SIZE_WORDS, motion_phrases
from pipelines.synthetic.corpus import COLUMNS, VERSION
from pipelines.synthetic.encode import FORMATS, encode
from pipelines.synthetic.plan import GROUP, plan, split_sizes
from pipelines.synthetic.scenes import COLOURS, MIDDLE_JITTER, MOTIONS, REACH, SHAPES, SIZES, centres, render

VIDEOS = 24


@pytest.fixture(scope="module")
def full():
    return plan(900, seed=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "a"
    return out, write_corpus(out, VIDEOS, seed=1, processes=1)


def digests(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): file_digest(path) for path in sorted(out.rglob("*")) if path.is_file()}


def of(clips, split):
    return [clip for clip in clips if clip.split == split]


def groups(clips):
    return [clips[start : start + GROUP] for start in range(0, len(clips), GROUP)]


def test_same_seed_gives_same_bytes_whoever_writes(written, tmp_path):
    out, _ = written
    write_corpus(tmp_path / "b", VIDEOS, seed=1, processes=2)
    assert digests(tmp_path / "b") == digests(out)


def test_another_seed_gives_another_corpus():
    assert plan(VIDEOS, 1) == plan(VIDEOS, 1)
    assert plan(VIDEOS, 1) != plan(VIDEOS, 2)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: f"{form.codec}-{form.extension}")
def test_every_format_is_deterministic_and_plays_back(form, tmp_path):
    scene = plan(VIDEOS, 0)[0].scene
    for name in ("a", "b"):
        encode(tmp_path / name, render(scene), form, scene.fps, scene.width, scene.height)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    with av.open(str(tmp_path / "a")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == scene.fps
    drawn = list(render(scene))
    assert len(shown) == len(drawn) == scene.frames
    assert np.abs(np.stack(shown).astype(int) - np.stack(drawn)).mean() < 6


def test_splits_are_240_test_videos_from_600_on_and_shrink_in_fours():
    assert split_sizes(600) == {"train": 280, "dev": 80, "test": 240}
    assert split_sizes(1800) == {"train": 1480, "dev": 80, "test": 240}
    for videos in range(12, 700):
        sizes = split_sizes(videos)
        assert sum(sizes.values()) == videos
        assert sizes["train"] > 0
        assert sizes["dev"] % GROUP == sizes["test"] % GROUP == 0
        assert min(sizes["dev"], sizes["test"]) > 0


@pytest.mark.parametrize("split", ["dev", "test"])
def test_groups_of_four_differ_only_in_motion(full, split):
    for group in groups(of(full, split)):
        assert len({clip.scene.motion for clip in group}) == GROUP
        first = group[0]
        for clip in group:
            assert replace(clip.scene, motion=first.scene.motion) == first.scene
            assert clip.format == first.format


def test_middle_frames_of_a_group_are_the_same_picture(full):
    group = groups(of(full, "test"))[0]
    middles = [list(render(clip.scene))[clip.scene.frames // 2] for clip in group]
    assert all(np.array_equal(middle, middles[0]) for middle in middles)


@pytest.mark.parametrize("seed", range(4))
def test_held_out_appearances_never_occur_in_train(seed):
    clips = plan(2000, seed)
    looks = {split: {clip.scene.look for clip in of(clips, split)} for split in ("train", "dev", "test")}
    assert [len(looks[split]) for split in looks] == [109, 20, 60]
    assert all(not looks[a] & looks[b] for a, b in combinations(looks, 2))
    train = [(*clip.scene.look, clip.scene.motion) for clip in of(clips, "train")]
    for values, place in ((SHAPES, 0), (COLOURS, 1), (SIZES, 2), (MOTIONS, 3)):
        assert {parts[place] for parts in train} == set(values)
    assert {parts[:2] for parts in train} == set(product(SHAPES, COLOURS))
    assert {(shape, size) for shape, _, size, _ in train} == set(product(SHAPES, SIZES))


def test_train_draws_combinations_evenly():
    counts = Counter((clip.scene.look, clip.scene.motion) for clip in of(plan(1800, 0), "train"))
    assert set(counts.values()) == {1, 2}


def test_every_caption_names_exactly_the_clips_attributes(full):
    for clip in full:
        assert len(set(clip.captions)) == 3
        for caption in clip.captions:
            words = set(caption.split())
            assert words & set(SHAPES) == {clip.scene.look.shape}
            assert words & set(COLOURS) == {clip.scene.look.colour}
            assert {size for size, names in SIZE_WORDS.items() if words & set(names)} == {clip.scene.look.size}
            assert {m for m in MOTIONS if any(p in caption for p in motion_phrases(m))} == {clip.scene.motion}


def test_object_stays_inside_the_central_square(full):
    margin = 0.5 - max(SIZES.values()) / 2
    extreme = MIDDLE_JITTER + REACH[1] * max(abs(part) for way in MOTIONS.values() for part in way)
    assert extreme < margin
    for clip in full:
        inside = np.abs(centres(clip.scene) - 0.5) + SIZES[clip.scene.look.size] / 2
        assert inside.max() <= 0.5


def test_drawn_object_is_where_its_centre_says(full):
    for clip in of(full, "train")[:20]:
        scene = replace(clip.scene, look=clip.scene.look._replace(shape="square", colour="white"))
        side, first = min(scene.width, scene.height), next(iter(render(scene)))
        rows, columns = np.nonzero(first.min(axis=2) > 150)
        corner = np.array([(scene.width - side) / 2, (scene.height - side) / 2])
        seen = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        assert np.abs(seen - corner - centres(scene)[0] * side).max() < 0.75


def test_middle_frame_says_nothing_about_motion(full):
    places = defaultdict(list)
    for clip in full:
        middle = centres(clip.scene)[clip.scene.frames // 2]
        assert clip.scene.frames % 2 == 1
        assert np.allclose(middle, clip.scene.middle)
        assert np.abs(middle - 0.5).max() <= MIDDLE_JITTER
        places[clip.scene.motion].append(middle)
    assert set(places) == set(MOTIONS)
    for found in places.values():
        # The mean of n uniform draws: 5 standard errors.
        assert np.abs(np.mean(found, axis=0) - 0.5).max() < 5 * MIDDLE_JITTER / np.sqrt(3 * len(found))


def test_captions_file_lists_every_video_three_times(written):
    out, report = written
    with report.captions_file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == report.captions == 3 * VIDEOS
    assert set(Counter(row["file"] for row in rows).values()) == {3}
    assert {str(path.relative_to(out)) for path in out.glob("videos/*")} == {row["file"] for row in rows}
    assert {split: sum(r["split"] == split for r in rows) // 3 for split in report.splits} == report.splits
    assert report.bytes == sum((out / file).stat().st_size for file in {row["file"] for row in rows})


def test_finished_corpus_is_left_alone_and_interrupted_one_is_completed(tmp_path):
    out = tmp_path / "corpus"
    told: list[int] = []
    first = write_corpus(out, 12, processes=1, on_progress=told.append)
    assert told[-1] == 12
    before = digests(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = write_corpus(out, 12)
    assert (first.reused, again.reused) == (False, True)
    assert (again.splits, again.captions, again.bytes) == (first.splits, first.captions, first.bytes)
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / "captions.csv").unlink()
    next(iter(sorted((out / "videos").iterdir()))).write_bytes(b"half")
    assert not write_corpus(out, 12, processes=1).reused
    assert digests(out) == before


def test_too_few_videos_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="at least 12"):
        write_corpus(tmp_path / "corpus", 11)
    with pytest.raises(InputError, match="seed"):
        write_corpus(tmp_path / "corpus", 12, seed=-1)
    assert not (tmp_path / "corpus").exists()


def test_foreign_folder_other_corpus_and_file_are_refused(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="other things"):
        write_corpus(foreign, 12)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "corpus.json").write_text(json.dumps({"version": VERSION, "videos": 12, "seed": 7}))
    with pytest.raises(InputError, match="another corpus"):
        write_corpus(other, 12, seed=0)
    (other / "corpus.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        write_corpus(other, 12, seed=0)
    with pytest.raises(InputError, match="is a file"):
        write_corpus(foreign / "thesis.txt", 12)


def test_command_prints_one_json_object(tmp_path):
    result = CliRunner().invoke(corpus, ["--out", str(tmp_path / "c"), "--videos", "12"])
    assert result.exit_code == 0, result.output
    assert "captions.csv" in result.output
    refused = CliRunner().invoke(corpus, ["--out", str(tmp_path / "c"), "--videos", "13"])
    assert refused.exit_code == InputError.exit_code
