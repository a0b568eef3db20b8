"""Open a file of any content: find its video track, read its packets, and notice if it ends early."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.error
from av.stream import Disposition

from gare.config.prepare import LimitsConfig
from pipelines.decode.errors import Budget, DecodeError, check_room
from pipelines.decode.picture import AS_STORED, Orientation, stated_orientation

# Containers of moving pictures only. Playlists (concat, hls, dash) would open other files, and still images
# would pass as one-frame videos.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,mpeg1video,mpeg2video,flv,live_flv,asf,ogg,3gp,rm,mxf,nut,"
    "ivf,obu,av1,h264,hevc,vvc,m4v,h263,vc1,dv,gxf,swf,gif,wtv,y4m,yuv4mpegpipe"
)
MOST_STRETCHED = 10
"""Pixels may be up to this many times as wide as high, or as high as wide; beyond, the file is wrong."""
MOST_ERRORS = 64
"""After this many read failures in a row, nothing more will come."""
NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass
class Track:
    """One video stream of an open container, ready to decode on one thread.

    ``errors``: packets that could not be decoded; ``damaged``: part of the file is unreadable or missing;
    ``failures``: number of failed reads; ``orientation``: the orientation that an H.264 stream itself states, None
    before its first packet is read; ``pixel_shape``: width over height of a pixel; ``begun``: reading has begun.
    """

    container: Any
    stream: Any
    context: Any
    errors: int = 0
    damaged: bool = False
    orientation: Orientation | None = AS_STORED
    pixel_shape: Fraction = Fraction(1)
    failures: int = 0
    begun: bool = False

    @property
    def ordered_by_pts(self) -> bool:
        """True if pts give the order of display: AVI has none, and those FFmpeg makes up ignore B-frames."""
        return not (self.container.format.name == "avi" and self.context.has_b_frames)

    @property
    def starts_anywhere(self) -> bool:
        """True if decoding can start at any keyframe: a palette may be older."""
        return bool(self.context.pix_fmt != "pal8")

    def demux(self, budget: Budget, max_packets: int) -> Iterator[Any]:
        """Yield the packets with data in file order, and note damage and an end before the stated one.

        Raises DecodeError if the time is spent, and for too many packets or none.
        """
        count = 0
        first: int | None = None
        last, length = -(2**63), 0
        for packet in self.read(budget):
            count += 1
            if count > max_packets:
                raise DecodeError("too_many_packets", f"More than {max_packets} packets.")
            self.damaged |= packet.is_corrupt
            pts = packet.pts
            if pts is not None and pts >= last:
                first = pts if first is None else first
                last, length = pts, packet.duration or 0
            yield packet
        if not count:
            raise DecodeError("no_packets", "A header, but no video data.")
        end = None if first is None else last + length
        gap = 0.0 if first is None else (last - first) / count
        self.damaged |= ends_early(self.container, self.stream, count, end, gap)

    def read(self, budget: Budget) -> Iterator[Any]:
        """Yield packets as ``demux`` does, but from the current position, however few or many there are."""
        packets = self.container.demux(self.stream)
        self.begun = True
        failed = 0
        while failed < MOST_ERRORS:
            budget.check()
            try:
                packet = next(packets, None)
            except MemoryError:  # FFmpeg's is an FFmpegError too
                raise
            except (av.error.FFmpegError, IndexError, ValueError):  # IndexError: MPEG-TS with a late stream
                self.damaged = True
                self.failures += 1
                failed += 1
                packets = self.container.demux(self.stream)  # reads on after the damage
                continue
            if packet is None:
                return
            failed = 0
            if packet.size:
                if self.orientation is None:
                    self.orientation = stated_orientation(packet, self.stream)
                yield packet

    def seek(self, moment: int) -> bool:
        """Seek to a keyframe at or before ``moment`` (units of the track's time base); return False if that fails."""
        try:
            self.container.seek(moment, stream=self.stream)
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError, OverflowError):
            return False
        return True

    def forget(self) -> None:
        """Reset the decoder, so that it forgets the packets it has seen."""
        if self.context.is_open:
            self.context.flush_buffers()

    def decode(self, packet: Any | None) -> list[Any]:
        """Return the frames that come out when ``packet`` goes in (None drains); damage counts as an error."""
        try:
            frames: list[Any] = self.context.decode(packet)
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            check_room(self.context.width * self.context.height)
            if packet is not None:
                self.errors += 1
            return []
        return frames


def check_file(path: Path, limits: LimitsConfig) -> int:
    """Return the bytes of a readable regular file within the limits. Raises DecodeError; opening a pipe would block."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DecodeError("missing", f"There is no file {path}.") from None
    except ValueError as error:
        raise DecodeError("unreadable", f"Cannot look at {path}: {error}.") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("not_a_file", f"{path} is not a regular file.")
    if status.st_size == 0:
        raise DecodeError("empty_file", f"{path} has 0 bytes.")
    if status.st_size > limits.max_bytes:
        raise DecodeError("too_large", f"{status.st_size} bytes, more than {limits.max_bytes}.")
    try:
        with path.open("rb", buffering=0) as file:
            file.read(1)  # FFmpeg would report an unreadable disk as a damaged video
    except OSError as error:
        raise _unreadable(path, error) from None
    return status.st_size


def _unreadable(path: Path, error: OSError) -> DecodeError:
    """Make the error for a file that cannot be read from storage, which says nothing about the video."""
    kind = "no_permission" if isinstance(error, PermissionError) else "unreachable"
    return DecodeError(kind, f"Cannot read {path}: {error.strerror or error}.")


@contextmanager
def open_track(path: Path, limits: LimitsConfig) -> Iterator[Track]:
    """Open ``path`` and its best video track. Raises DecodeError if it has none."""
    try:
        container = av.open(
            # An absolute path is never read as a protocol such as ``concat:``.
            os.path.abspath(path),  # noqa: PTH100 - symlinks stay
            metadata_errors="ignore",
            options={"max_pixels": str(limits.max_pixels)},
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        )
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError("unreadable", f"Not an accepted video container, or damaged: {reason}.") from None
    with container:
        stream = _best_stream(container)
        context = stream.codec_context
        if context.width * context.height > limits.max_pixels:
            size = f"{context.width} x {context.height}"
            raise DecodeError("too_many_pixels", f"Declared as {size}, more than {limits.max_pixels} pixels.")
        context.thread_count = 1
        context.options = {"max_pixels": str(limits.max_pixels), "threads": "1"}
        orientation = None if context.name == "h264" else AS_STORED
        yield Track(container, stream, context, orientation=orientation, pixel_shape=pixel_shape(stream))


def pixel_shape(stream: Any) -> Fraction:
    """Return width over height of a pixel as the container states it, else the codec; 1 if neither does sensibly.

    The container takes precedence, as in FFmpeg's own tools.
    """
    ratio = stream.sample_aspect_ratio
    if not ratio or not 1 <= MOST_STRETCHED * ratio <= MOST_STRETCHED**2:
        return Fraction(1)
    return Fraction(ratio.numerator, ratio.denominator)


def _best_stream(container: Any) -> Any:
    """Choose the largest video stream, preferring those marked default: the first one may be a thumbnail."""
    streams = [s for s in container.streams if s.type == "video" and not s.disposition & NOT_SHOWN]
    if not streams:
        raise DecodeError("no_video", "No video stream.")
    usable = [s for s in streams if s.codec_context is not None]
    if not usable:
        raise DecodeError("no_decodable_video", "No decoder for its video stream.")
    return max(
        usable,
        key=lambda s: (bool(s.disposition & Disposition.default), s.codec_context.width * s.codec_context.height),
    )


ENDS: Final = {"matroska", "flv", "avi", "asf", "mov"}
"""Containers whose headers state a length; for others FFmpeg guesses it."""
LEAST_S: Final = 0.3
MOST_S: Final = 2.0
SHARE: Final = 0.02
MEAN_GAPS: Final = 2.5
"""A track clearly ends early if this share of its length, and more than a few frames, is missing."""

TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def ends_early(container: Any, stream: Any, packets: int, end: int | None, gap: float) -> bool:
    """Return True if a track of ``packets`` ends clearly before the end that its container states.

    ``end``: the end of its last frame, and ``gap``: the mean one, in units of the track's time base. Sound may be
    longer than the pictures, so a length of the whole file counts only if no other track reaches it.
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
    """Return the length that the container states for the track itself, or None."""
    if kind == "matroska":
        tags = {key.upper(): value for key, value in stream.metadata.items()}
        found = next((TAG.match(value) for key, value in tags.items() if key.split("-")[0] == "DURATION"), None)
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None
    if kind == "avi" and stream.frames:  # FFmpeg corrects the duration by the file size
        return float(stream.frames * stream.time_base)
    if kind == "mov" and stream.frames == 0 and stream.duration:  # fragments; otherwise the index states the length
        return float(stream.duration * stream.time_base)
    return None


def _whole_s(container: Any) -> float | None:
    return container.duration / 1e6 if container.duration and container.duration > 0 else None


def _others_reach(container: Any, stream: Any, moment_s: float) -> bool:
    """Return True if a track other than the pictures has data at ``moment_s`` or later. Reads the file again."""
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
