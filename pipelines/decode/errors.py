"""Why a video could not be decoded, and the processor time it may take."""

from __future__ import annotations

import time
from typing import Final

KINDS: Final[dict[str, str]] = {
    "missing": "there is no such file",
    "not_a_file": "a folder, pipe, socket or device",
    "unsupported_uri": "a remote address, which this version does not fetch",
    "empty_file": "a file of 0 bytes",
    "unreadable": "no container format that is accepted here, or damaged beyond opening",
    "no_video": "no video stream (cover art is none)",
    "no_decodable_video": "a video stream of a codec that cannot be decoded here",
    "no_packets": "a header without any video data",
    "no_frames": "video data from which no frame came",
    "empty_clip": "no frame between start_s and end_s",
    "corrupt": "more than half of the frames are flagged as damaged",
    "too_large": "more than limits.max_bytes",
    "too_many_pixels": "more than limits.max_pixels a frame",
    "too_many_packets": "more than limits.max_packets",
    "too_long": "longer than limits.max_seconds",
    "timeout": "more processor time than limits.cpu_seconds",
    "internal": "an unexpected error of this software",
}
"""Every kind a ledger row can fail with, and what it means."""


class DecodeError(Exception):
    """One video cannot be decoded: ``kind`` is a key of ``KINDS``, ``message`` one sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


class Budget:
    """Processor time of this thread since the start, checked at every packet."""

    def __init__(self, cpu_seconds: float) -> None:
        self._limit = cpu_seconds
        self._started = time.thread_time()

    def check(self) -> None:
        """Raise DecodeError(timeout) once the time is spent."""
        if time.thread_time() - self._started > self._limit:
            raise DecodeError("timeout", f"More than {self._limit:g} s of processor time.")
