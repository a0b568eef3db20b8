"""Choose the frames of a video to keep: pure functions of the times at which its frames are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gare.common.spread import segment_middles, thin

TIME_TOLERANCE_S = 1e-6  # far below a frame's duration, above the rounding of pts * time_base
ALMOST = 0.999  # of a tick: the largest error of two rounded times, less than a whole tick

Times = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """Inputs of a policy in addition to the times: the settings of the same names in ``prepare``, and ``tick_s``.

    ``tick_s``: the unit the times are rounded to, 0 if they are exact.
    """

    max_frames: int
    candidate_fps: float = 1.0
    timestamps_s: tuple[float, ...] = ()
    tick_s: float = 0.0


def tolerance(times_s: Times, off_s: float) -> float:
    """Return by how much equal moments may differ: ``off_s``, at most half a mean frame, plus float rounding."""
    if len(times_s) < 2:
        return TIME_TOLERANCE_S
    frame_s = float(times_s[-1] - times_s[0]) / (len(times_s) - 1)
    return min(off_s, frame_s / 2) + TIME_TOLERANCE_S


def candidates_at(times_s: Times, fps: float, tick_s: float = 0.0) -> Indices:
    """Find the first frame at or after each multiple of 1/``fps`` seconds from the first frame; each frame once.

    This compares two rounded times, which together may be off by almost a tick.
    """
    passed = np.floor((times_s - times_s[0] + tolerance(times_s, ALMOST * tick_s)) * fps)
    return np.flatnonzero(np.diff(passed, prepend=-1.0) > 0).astype(np.int64)


def fps_linspace(times_s: Times, rule: Rule) -> Indices:
    """Take candidates by time, thinned by linspace including first and last; suits variable frame rates too."""
    candidates = candidates_at(times_s, rule.candidate_fps, rule.tick_s)
    return candidates[thin(len(candidates), rule.max_frames)]


def uniform(times_s: Times, rule: Rule) -> Indices:
    """Take frames spaced evenly by number, first and last included."""
    return np.array(thin(len(times_s), rule.max_frames), np.int64)


def segment_middle(times_s: Times, rule: Rule) -> Indices:
    """Take the middle frame of each of ``max_frames`` equal segments of all frames, by their number."""
    return np.array(segment_middles(len(times_s), rule.max_frames), np.int64)


def all_candidates(times_s: Times, rule: Rule) -> Indices:
    """Take every candidate by time, from the first on, up to ``max_frames``."""
    return candidates_at(times_s, rule.candidate_fps, rule.tick_s)[: rule.max_frames]


def timestamps(times_s: Times, rule: Rule) -> Indices:
    """Take the frames shown at given moments, in seconds from the first frame; each frame once.

    A frame is shown until the next one, the last one for the mean frame duration. Other moments are skipped.
    """
    off_s = tolerance(times_s, ALMOST * rule.tick_s)
    moments = np.sort(np.asarray(rule.timestamps_s, np.float64)) + times_s[0] + off_s
    mean = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1)
    inside = (moments >= times_s[0]) & (moments < max(times_s[-1] + mean, times_s[0] + off_s + TIME_TOLERANCE_S))
    return np.unique(np.searchsorted(times_s, moments[inside], "right") - 1)[: rule.max_frames]


POLICIES: Final[dict[str, Callable[[Times, Rule], Indices]]] = {
    "fps_linspace": fps_linspace,
    "uniform": uniform,
    "segment_middle": segment_middle,
    "all_candidates": all_candidates,
    "timestamps": timestamps,
}
"""Each takes the times of a clip's frames, at least one, and returns rising indices, at most ``max_frames``."""


def in_clip(times_s: Times, start_s: float | None, end_s: float | None, tick_s: float = 0.0) -> range:
    """Find the frames with ``start_s <= t < end_s``; times may be almost a tick off, as the first is rounded too."""
    off_s = tolerance(times_s, ALMOST * tick_s)
    low = 0 if start_s is None else int(np.searchsorted(times_s, start_s - off_s, "left"))
    high = len(times_s) if end_s is None else int(np.searchsorted(times_s, end_s - off_s, "left"))
    return range(low, max(low, high))


def sample(
    times_s: Sequence[float] | Times,
    *,
    policy: str,
    max_frames: int,
    candidate_fps: float,
    timestamps_s: Sequence[float] = (),
    start_s: float | None = None,
    end_s: float | None = None,
    tick_s: float = 0.0,
) -> list[int]:
    """Choose the frames to keep: rising indices, at most ``max_frames``; a shorter video keeps its few frames.

    ``times_s``: when each frame is shown, in display order, in seconds from the first shown frame. The clip is
    ``start_s <= t < end_s``; candidates and ``timestamps_s`` count from its first frame. Empty if no frame lies
    inside. ``tick_s``: the unit the times are rounded to, as in a container of milliseconds; the same frames are
    chosen as by the exact times if a bound or moment is one of them. 0: they are exact.
    """
    times = np.asarray(times_s, dtype=np.float64)
    clip = in_clip(times, start_s, end_s, tick_s)
    if not clip:
        return []
    rule = Rule(max_frames, candidate_fps, tuple(timestamps_s), tick_s)
    return [clip[int(i)] for i in POLICIES[policy](times[clip.start : clip.stop], rule)]


def is_truncated(
    times_s: Sequence[float] | Times,
    *,
    policy: str,
    max_frames: int,
    candidate_fps: float,
    start_s: float | None = None,
    end_s: float | None = None,
    tick_s: float = 0.0,
) -> bool:
    """Return True if ``all_candidates`` leaves out the end of the clip; no other policy does."""
    if policy != "all_candidates":
        return False
    more = sample(
        times_s,
        policy=policy,
        max_frames=max_frames + 1,
        candidate_fps=candidate_fps,
        start_s=start_s,
        end_s=end_s,
        tick_s=tick_s,
    )
    return len(more) > max_frames
