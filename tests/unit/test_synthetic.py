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
from pipelines.synthetic.events import SCALE, Difficulty, plan_events
from pipelines.synthetic.plan import GROUP, plan, split_sizes
from pipelines.synthetic.scenes import COLOURS, MIDDLE_JITTER, MOTIONS, REACH, SHAPES, SIZES, centres, positions

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
        encode(tmp_path / name, scene.render(), form, scene.fps, scene.width, scene.height)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    with av.open(str(tmp_path / "a")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == scene.fps
    drawn = list(scene.render())
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
    middles = [list(clip.scene.render())[clip.scene.frames // 2] for clip in group]
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
        side, first = min(scene.width, scene.height), next(iter(scene.render()))
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
    assert tuple(rows[0]) == (*COLUMNS, "shape", "colour", "size", "motion")
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


@pytest.fixture(scope="module")
def events():
    return plan_events(1200, 3, Difficulty(events=3, clutter=2, twins=0.2))


def test_each_caption_of_events_names_one_event_and_all_are_named(events):
    for clip in events:
        assert len(clip.captions) == len(clip.scene.events) == len({event.look for event in clip.scene.events}) == 3
        for caption, event in zip(clip.captions, clip.scene.events, strict=True):
            words = set(caption.split())
            assert words & set(SHAPES) == {event.look.shape}
            assert words & set(COLOURS) == {event.look.colour}
            assert {m for m in MOTIONS if any(p in caption for p in motion_phrases(m))} == {event.motion}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_event_of_dev_and_test_has_one_right_clip_and_seven_that_show_its_object(events, split):
    shown = [(event.look, event.motion) for clip in of(events, split) for event in clip.scene.events]
    assert len(set(shown)) == len(shown)
    assert {count for look, count in Counter(look for look, _ in shown).items()} == {len(MOTIONS)}
    for start in range(0, len(of(events, split)), len(MOTIONS)):
        group = of(events, split)[start : start + len(MOTIONS)]
        still = [[replace(event, motion="up") for event in clip.scene.events] for clip in group]
        assert all(events == still[0] for events in still)
        assert len({(clip.scene.background_seed, clip.format.codec, clip.scene.fps) for clip in group}) == 1


def test_twins_and_only_twins_have_the_same_events_and_look_otherwise(events):
    train = of(events, "train")
    groups = defaultdict(list)
    for clip in train:
        groups[clip.scene.attributes["events"]].append(clip)
    twins = [group for group in groups.values() if len(group) > 1]
    assert {len(group) for group in twins} == {2}
    assert len(twins) == round(0.1 * len(train))
    for a, b in twins:
        assert [(e.look, e.motion) for e in a.scene.events] == [(e.look, e.motion) for e in b.scene.events]
        assert a.scene.background_seed != b.scene.background_seed
        assert [(e.start, e.middle) for e in a.scene.events] != [(e.start, e.middle) for e in b.scene.events]
    assert not any(
        {event.look for event in clip.scene.events} & {event.look for c in of(events, s) for event in c.scene.events}
        for clip in train[:100]
        for s in ("dev", "test")
    )


def test_events_come_and_go_at_different_times_inside_the_clip_and_the_picture(events):
    for clip in events:
        starts = [event.start for event in clip.scene.events]
        assert len(set(starts)) > 1
        assert min(starts) <= clip.scene.frames / 4
        for event in clip.scene.events:
            assert 0 <= event.start < event.stop <= clip.scene.frames
            where = positions(event.motion, event.middle, event.reach, event.stop - event.start)
            assert (np.abs(where - 0.5) + SCALE * SIZES[event.look.size] / 2).max() <= 0.5 + 1e-9


def test_an_object_is_drawn_while_its_event_lasts_and_clutter_always(events):
    clip = of(events, "train")[0]
    frames = np.stack(list(clip.scene.render())).astype(int)
    still = np.stack(list(replace(clip.scene, events=()).render())).astype(int)
    bare = np.stack(list(replace(clip.scene, events=(), clutter=0).render())).astype(int)
    assert np.array_equal(still[0], still[-1])
    assert not np.array_equal(still, bare)
    assert still.max() < 150
    for number in range(len(frames)):
        there = any(event.start <= number < event.stop for event in clip.scene.events)
        assert np.array_equal(frames[number], still[number]) != there


def test_events_are_written_with_their_attribute_and_kept_apart_from_other_corpora(tmp_path):
    hard = Difficulty(events=2, clutter=1, twins=0.5)
    report = write_corpus(tmp_path / "a", 24, 1, processes=1, events=hard)
    with report.captions_file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == (*COLUMNS, "events")
    assert len(rows) == report.captions == 48
    write_corpus(tmp_path / "b", 24, 1, processes=1, events=hard)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    with pytest.raises(InputError, match="another corpus"):
        write_corpus(tmp_path / "a", 24, 1, events=replace(hard, twins=0.0))


def test_difficulties_out_of_range_are_refused():
    for wrong in ({"events": 1}, {"clutter": -1}, {"twins": 1.5}, {"twins": float("nan")}):
        with pytest.raises(InputError, match=f"needs {next(iter(wrong))} between"):
            Difficulty(**wrong)
    with pytest.raises(InputError, match="at least 24"):
        plan_events(23, 0, Difficulty())


def test_command_prints_one_json_object(tmp_path):
    result = CliRunner().invoke(corpus, ["--out", str(tmp_path / "c"), "--videos", "12"])
    assert result.exit_code == 0, result.output
    assert "captions.csv" in result.output
    lone = CliRunner().invoke(corpus, ["--out", str(tmp_path / "d"), "--videos", "24", "--twins", "0.5"])
    assert lone.exit_code == InputError.exit_code
    assert "--twins needs --kind events" in str(lone.stderr)
    refused = CliRunner().invoke(corpus, ["--out", str(tmp_path / "c"), "--videos", "13"])
    assert refused.exit_code == InputError.exit_code
