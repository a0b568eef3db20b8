"""Reasons why a video cannot be decoded, and the limits on its cost."""

from __future__ import annotations

import mmap
import time
from typing import Final

from gare.config.prepare import PrepareConfig

KINDS: Final[dict[str, str]] = {
    "missing": "there is no such file",
    "not_a_file": "a folder, pipe, socket or device",
    "unsupported_uri": "an address of a kind that is not fetched, or none at all",
    "no_permission": "a local file that may not be read, or a folder above it that may not be entered",
    "unreachable": "a file that storage or network did not give to its end; another try may do better",
    "empty_file": "a file of 0 bytes",
    "unreadable": "no container format that is accepted here, or damaged beyond opening",
    "no_video": "no video stream (cover art does not count)",
    "no_decodable_video": "a video stream of a codec or pixel format that cannot be decoded here",
    "no_packets": "a header without any video data",
    "no_frames": "video data from which no frame came",
    "empty_clip": "no frame between start_s and end_s",
    "corrupt": "more than half of the frames are flagged as damaged",
    "too_large": "more than limits.max_bytes",
    "too_many_pixels": "more than limits.max_pixels a frame",
    "too_elongated": "longer than limits.max_aspect times its width, to be stored uncropped",
    "mixed_shapes": "frames of more than one shape, to be stored uncropped",
    "too_many_bytes": "more frames than a row of a shard holds, or than limits.memory_bytes",
    "too_many_packets": "more than limits.max_packets",
    "too_long": "longer than limits.max_seconds",
    "timeout": "more processor time than limits.cpu_seconds, or more waiting than limits.wait_seconds",
    "memory": "more memory than limits.memory_bytes, twice",
    "crashed": "the process that decoded it died, twice",
    "internal": "an unexpected error of this software",
}
"""Every kind of failure in a ledger row, and its meaning."""

SAYS_NOTHING: Final = frozenset(
    {"missing", "not_a_file", "no_permission", "unreachable", "unsupported_uri", "timeout", "memory", "crashed"}
)
"""Kinds that say nothing about a source's content: it is gone, or decoding failed for other reasons."""

MAY_BE_DAMAGE: Final = frozenset(
    {"empty_file", "unreadable", "no_video", "no_decodable_video", "no_packets", "no_frames", "corrupt", "internal"}
)
"""Kinds that a sound source may show after it was cut off or replaced."""

NOTES: Final[dict[str, str]] = {
    "partial": "some of the file is damaged, or missing at its end",
    "repaired_timestamps": "a few times in the file were missing or went back: those frames got a time between their "
    "neighbours, or were left out",
    "ordinal_timestamps": "times counted from the frames' numbers, because those of the file tell nothing",
    "decoded_by_pyav": "prepare.decoder names another decoder, which could not make the frames as they are shown",
    "truncated": "policy all_candidates had more than max_frames; the end of the clip is not stored",
}
"""Every note that a row with status ok can have, and its meaning."""


LOOKS: Final = 8
"""Checks per reading of the clock: in a long file, a packet takes less time than reading the clock."""


class DecodeError(Exception):
    """One video cannot be decoded: ``kind`` is a key of ``KINDS``, ``message`` one sentence.

    ``attempts``: number of tries.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message
        self.attempts = 1

    def again(self) -> DecodeError:
        """Make a copy of the error for another clip of the file."""
        return DecodeError(self.kind, self.message)


class Budget:
    """Limit on the processor time of this thread from the start, checked at every packet."""

    def __init__(self, cpu_seconds: float) -> None:
        self._limit = cpu_seconds
        self.start_again()

    def start_again(self) -> None:
        """Restart the count now."""
        self._started = time.thread_time()
        self._checks = 0

    def check(self) -> None:
        """Raise DecodeError(timeout) once the time is spent; only every LOOKS-th check reads the clock."""
        self._checks += 1
        if self._checks % LOOKS != 1:
            return
        if time.thread_time() - self._started > self._limit:
            raise out_of_time(self._limit)


def out_of_time(cpu_seconds: float) -> DecodeError:
    """Build the error for a video that takes too much processor time."""
    return DecodeError("timeout", f"More than {cpu_seconds:g} s of processor time.")


def check_room(pixels: int) -> None:
    """Raise MemoryError if another frame of this many pixels would not fit into this process's memory limit.

    FFmpeg's H.264 decoder reports damaged data if it finds no memory for a frame; this check tells the two apart.
    """
    try:
        mmap.mmap(-1, max(1, 4 * pixels), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError("no memory for another frame") from error


ROW_BYTES: Final = 2**31 - 1
"""Most bytes of a stored row's frames: Arrow counts the bytes of a binary column in 32 bits."""


def check_row(frames: int, height: int, width: int, recipe: PrepareConfig) -> None:
    """Raise DecodeError(too_many_bytes) if ``frames`` pictures of this size exceed the limit of a row."""
    most, why = recipe.limits.memory_bytes, "prepare.limits.memory_bytes"
    if recipe.storage == "raw" and most > ROW_BYTES:
        most, why = ROW_BYTES, "a row of a shard, or set prepare.storage to jpeg"
    size = 3 * frames * height * width
    if size > most:
        raise DecodeError(
            "too_many_bytes",
            f"{frames} frames of {width} x {height} pixels or more are {size} bytes, and {most} are the most; lower "
            f"prepare.max_frames, prepare.short_side or prepare.crop to fit {why}.",
        )
