"""Damaged files of many kinds: a right result, a partial one or a failure with its kind, never anything else."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from gare.config.prepare import LimitsConfig, PrepareConfig
from pipelines.decode import KINDS, NOTES, DecodeError, decode_video
from pipelines.decode import video as video_module
from tests.mutator import MUTATIONS
from tests.videos import make_video

LIMITS = LimitsConfig(max_pixels=512 * 512, max_packets=2000, cpu_seconds=5.0)
RECIPES = [
    PrepareConfig(short_side=32, crop=24, max_frames=4, candidate_fps=3.0, limits=LIMITS),
    PrepareConfig(short_side=24, crop=None, max_frames=4, policy="uniform", limits=LIMITS),
    PrepareConfig(short_side=24, crop=24, max_frames=6, policy="segment_middle", resize="swscale", limits=LIMITS),
    PrepareConfig(
        short_side=24, crop=24, max_frames=3, policy="timestamps", timestamps_s=[0.0, 0.7, 1.5], limits=LIMITS
    ),
]
SMALL = {"frames": 24, "fps": 12, "size": (64, 48), "gop": 8}
VIDEOS = {
    "h264.mp4": {"codec": "libx264", "options": {"bf": "2"}},
    "h264_fast.mp4": {"codec": "libx264", "muxer": {"movflags": "faststart"}},
    "fragments.mp4": {"codec": "libx264", "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=2"}},
    "h264.mkv": {"codec": "libx264", "options": {"bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "h264.ts": {"codec": "libx264", "options": {"bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264.flv": {"codec": "libx264"},
    "raw.h264": {"codec": "libx264", "container": "h264"},
}
PER_MUTATION = 6


def mutants(name: str, whole: bytes):
    for number, mutation in enumerate(MUTATIONS):
        for turn in range(PER_MUTATION):
            draw = random.Random(f"{name} {number} {turn}")
            data = mutation(bytearray(whole), draw)
            yield f"{name} {mutation.__name__} {turn}", data, draw.choice(RECIPES)


def check(path, recipe: PrepareConfig) -> str:
    """What decoding came to; an AssertionError or whatever is raised where it should not."""
    try:
        decoded = decode_video(path, recipe=recipe)
    except DecodeError as error:
        kind, message = error.kind, error.message
        assert message
        assert kind in KINDS.keys() - {"internal", "crashed", "memory", "missing", "not_a_file"}
        return kind
    except MemoryError:  # a field that asks for more than FFmpeg ever allocates; the ledger says memory
        return "memory"
    shapes = {frame.shape for frame in decoded.frames}
    assert len(shapes) == 1
    height, width, channels = shapes.pop()
    assert channels == 3
    if recipe.crop is None:
        assert min(height, width) == recipe.short_side
        assert max(height, width) <= recipe.limits.max_aspect * recipe.short_side
    else:
        assert height == width == recipe.crop
    assert all(frame.dtype == np.uint8 for frame in decoded.frames)
    times = decoded.timestamps_s
    assert 1 <= len(decoded.frames) == len(times) <= recipe.max_frames
    assert times == sorted(set(times))
    assert all(map(math.isfinite, [*times, decoded.duration_s, decoded.fps or 0.0]))
    assert times[0] >= 0
    assert set(decoded.notes) <= NOTES.keys()
    return "partial" if "partial" in decoded.notes else "ok"


@pytest.mark.parametrize("keep", [video_module.KEEP_BYTES, 0], ids=["kept", "sought"])
def test_every_damaged_file_is_decoded_in_part_or_fails_with_a_kind(tmp_path, monkeypatch, keep):
    monkeypatch.setattr(video_module, "KEEP_BYTES", keep)
    outcomes: Counter[str] = Counter()
    for name, settings in VIDEOS.items():
        whole = make_video(tmp_path / name, **{**SMALL, **settings}).read_bytes()
        for what, data, recipe in mutants(name, whole):
            path = tmp_path / f"mutant.{name.rpartition('.')[2]}"
            path.write_bytes(data)
            try:
                outcomes[check(path, recipe)] += 1
            except Exception as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert sum(outcomes.values()) == len(VIDEOS) * len(MUTATIONS) * PER_MUTATION >= 300
    assert min(outcomes[kind] for kind in ("ok", "partial", "unreadable")) > 20, outcomes
    assert len(outcomes) > 5, outcomes
