"""How long a container says that its video track is: what ends clearly before that was cut off."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

import av.error

ENDS: Final = {"matroska", "flv", "avi", "asf", "mov"}
"""Containers whose headers state a length; that of others is FFmpeg's own guess."""
LEAST_S: Final = 0.3
MOST_S: Final = 2.0
SHARE: Final = 0.02
MEAN_GAPS: Final = 2.5
"""A track ends clearly early when this share of its length is missing, of more than a few frames."""

TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def ends_early(container: Any, stream: Any, packets: int, end: int | None, gap: float) -> bool:
    """Whether a track of ``packets`` ends clearly before its container says.

    ``end``: of its last frame, and ``gap``: the mean one, in units of the track's time base. Sound may be longer
    than the pictures, so a length of the whole file counts only where no other track reaches it.
    """
    kind = container.format.name.split(",")[0]
    if kind == "mov" and len(stream.index_entries) > packets:  # it lists every packet before the data
        return True
    if kind not in ENDS or end is None:
        return False
    end_s, gap_s = float(end * stream.time_base), float(gap * stream.time_base)
    own_s = _own_s(kind, stream)
    stated_s = own_s if own_s is not None or kind == "mov" else _whole_s(container)
    if stated_s is None:
        return False
    latest_s = stated_s - max(LEAST_S, MEAN_GAPS * gap_s, min(SHARE * stated_s, MOST_S))
    return end_s < latest_s and (own_s is not None or not _others_reach(container, stream, latest_s))


def _own_s(kind: str, stream: Any) -> float | None:
    """Length that the container states of the track itself, None where it states none."""
    if kind == "matroska":
        tags = {key.upper(): value for key, value in stream.metadata.items()}
        found = next((TAG.match(value) for key, value in tags.items() if key.split("-")[0] == "DURATION"), None)
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None
    if kind == "avi" and stream.frames:  # its duration FFmpeg corrects by the size of the file
        return float(stream.frames * stream.time_base)
    if kind == "mov" and stream.frames == 0 and stream.duration:  # fragments; else the index was the statement
        return float(stream.duration * stream.time_base)
    return None


def _whole_s(container: Any) -> float | None:
    return container.duration / 1e6 if container.duration and container.duration > 0 else None


def _others_reach(container: Any, stream: Any, moment_s: float) -> bool:
    """Whether a track beside the pictures has data at ``moment_s`` or later. Reads the file again, for those."""
    others = [s for s in container.streams if s is not stream and s.type in ("audio", "subtitle", "video", "data")]
    if not others:
        return False
    with suppress(av.error.FFmpegError, ValueError, IndexError):
        container.seek(0)
        for packet in container.demux(others):
            if packet.pts is None:
                continue
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            if end >= moment_s:
                return True
    return False
