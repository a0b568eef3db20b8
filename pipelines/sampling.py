"""Which frames of a video are kept: pure functions of the times at which its frames are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

TIME_TOLERANCE_S = 1e-6  # far below a frame, above the rounding of pts * time_base

Times = NDArray[np.float64]
Indices = NDArray[np.int64]


def thin(count: int, at_most: int) -> Indices:
    """Up to ``at_most`` of ``count`` positions, evenly by linspace with both ends, truncated as the field does."""
    if count <= at_most:
        return np.arange(count, dtype=np.int64)
    return np.linspace(0, count - 1, at_most).astype(np.int64)


def candidates_at(times_s: Times, fps: float) -> Indices:
    """Find the first frame at or after each multiple of 1/``fps`` seconds from the first frame; each frame once."""
    ticks = np.floor((times_s - times_s[0] + TIME_TOLERANCE_S) * fps)
    return np.flatnonzero(np.diff(ticks, prepend=-1.0) > 0).astype(np.int64)


def fps_linspace(times_s: Times, max_frames: int, candidate_fps: float) -> Indices:
    """Candidates by time, thinned by linspace: right for variable frame rates too."""
    candidates = candidates_at(times_s, candidate_fps)
    return candidates[thin(len(candidates), max_frames)]


def uniform(times_s: Times, max_frames: int, candidate_fps: float) -> Indices:  # noqa: ARG001 - one signature for all
    """Evenly over all frames, by index."""
    return thin(len(times_s), max_frames)


POLICIES: dict[str, Callable[[Times, int, float], Indices]] = {"fps_linspace": fps_linspace, "uniform": uniform}


def sample(
    times_s: Sequence[float] | Times,
    *,
    policy: str,
    max_frames: int,
    candidate_fps: float,
    start_s: float | None = None,
    end_s: float | None = None,
) -> list[int]:
    """Choose the kept frames: indices, rising, at most ``max_frames``; a short video keeps its few frames.

    ``times_s``: when each frame is shown, in display order, in seconds from the first shown frame. The clip is
    ``start_s <= t < end_s``; candidates count from its first frame. Empty when no frame lies inside.
    """
    times = np.asarray(times_s, dtype=np.float64)
    low = 0 if start_s is None else int(np.searchsorted(times, start_s - TIME_TOLERANCE_S, "left"))
    high = len(times) if end_s is None else int(np.searchsorted(times, end_s - TIME_TOLERANCE_S, "left"))
    if low >= high:
        return []
    picked = POLICIES[policy](times[low:high], max_frames, candidate_fps)
    return [low + int(index) for index in picked]
