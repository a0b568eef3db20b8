"""For every policy and every clip, decoding by plan gives what decoding every frame in order gives."""

from __future__ import annotations

import csv
import random

import av
import pytest

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode import Clip, DecodedVideo, DecodeError, decode_clips
from pipelines.decode.clip_job import ClipJob
from pipelines.decode.errors import Budget
from pipelines.decode.in_order import Sequential
from tests.made_tracks import make_track

SMALL = {"short_side": 16, "crop": 16, "limits": LimitsConfig(cpu_seconds=600.0)}
RECIPES = {
    "fps_linspace": PrepareConfig(max_frames=5, candidate_fps=3.0, **SMALL),
    "uniform": PrepareConfig(max_frames=6, policy="uniform", **SMALL),
    "segment_middle": PrepareConfig(max_frames=4, policy="segment_middle", **SMALL),
    "all_candidates": PrepareConfig(max_frames=4, policy="all_candidates", candidate_fps=4.0, **SMALL),
    "timestamps": PrepareConfig(max_frames=4, policy="timestamps", timestamps_s=[0.0, 0.31, 0.9], **SMALL),
}
FEW = range(24)
MANY = range(1000, 1200)


def outcome(result: DecodedVideo | DecodeError, ignored: frozenset[str] = frozenset()):
    """What of a result has to be equal; notes aside that are ``ignored``."""
    if isinstance(result, DecodeError):
        return result.kind, result.message
    notes = [note for note in result.notes if note not in ignored]
    pictures = [frame.tobytes() for frame in result.frames]
    return result.timestamps_s, result.duration_s, result.fps, result.width, result.height, notes, pictures


def plain(path, recipe: PrepareConfig, clips: list[Clip], ignored: frozenset[str]):
    """What decoding every frame in order gives for some clips."""
    job = ClipJob(path, recipe, None, None, Budget(recipe.limits.cpu_seconds))
    sequential = Sequential(job)
    try:
        return [outcome(result, ignored) for result in sequential.decode([job.of(clip) for clip in clips])]
    finally:
        sequential.close()


def told(result) -> str:
    return str(result if len(result) == 2 else result[:-1])


def differences(path, draw: random.Random, length_s: float = 2.0, ignored: frozenset[str] = frozenset()) -> list[str]:
    """Where planned and plain differ, over all policies and a few clips."""
    found = []
    for name, recipe in RECIPES.items():
        start = draw.uniform(0, length_s)
        clips = [Clip(), Clip(start, start + draw.uniform(0.1, length_s)), Clip(None, length_s / 3), Clip(start)]
        results = [outcome(result, ignored) for result in decode_clips(path, recipe=recipe, clips=clips)]
        for clip, planned, wanted in zip(clips, results, plain(path, recipe, clips, ignored), strict=True):
            if planned != wanted:
                what = "" if told(planned) != told(wanted) else " (pictures)"
                found.append(f"{name} {clip}: {told(planned)} instead of {told(wanted)}{what}")
    return found


def check_made(folder, seeds) -> list[str]:
    av.logging.set_level(av.logging.PANIC)
    wrong = []
    for seed in seeds:
        made = make_track(folder, seed)
        # Damage inside of a picture that is not needed shows in order only, and only there it is noted.
        ignored = frozenset({"partial"} if made.bytes_damaged else ())
        found = differences(made.path, random.Random(seed), ignored=ignored)
        if found:
            wrong.append("\n  ".join([made.story, *found]))
    return wrong


def test_made_files_are_decoded_by_plan_as_in_order(tmp_path):
    assert not (wrong := check_made(tmp_path, FEW)), "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_made_files_are_decoded_by_plan_as_in_order(tmp_path):
    assert not (wrong := check_made(tmp_path, MANY)), "\n".join(wrong)


def clips_of(fixtures_dir, longest: float) -> list[tuple[str, float]]:
    with (fixtures_dir / "clips" / "good.csv").open() as lines:
        rows = [(row["file"], float(row["duration"] or 0)) for row in csv.DictReader(lines)]
    return [row for row in rows if row[1] < longest]


def check_real(fixtures_dir, clips) -> list[str]:
    wrong = []
    for file, length_s in clips:
        found = differences(fixtures_dir / "clips" / file, random.Random(file), min(length_s, 10.0) or 2.0)
        if found:
            wrong.append("\n  ".join([file, *found]))
    return wrong


def test_real_clips_are_decoded_by_plan_as_in_order(fixtures_dir):
    assert (clips := clips_of(fixtures_dir, 3.0)[::9])
    assert not (wrong := check_real(fixtures_dir, clips)), "\n".join(wrong)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_all_real_clips_are_decoded_by_plan_as_in_order(fixtures_dir):
    assert not (wrong := check_real(fixtures_dir, clips_of(fixtures_dir, float("inf")))), "\n".join(wrong)
