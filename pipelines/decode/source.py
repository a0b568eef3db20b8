"""Opening a file that may be anything, choosing its video track, and reading the packets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
from av.stream import Disposition

from gare.config.prepare import LimitsConfig
from pipelines.decode.errors import Budget, DecodeError

# Containers of moving pictures only. Playlists (concat, hls, dash) would open other files, and still images
# would pass as one-frame videos.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,mpeg1video,mpeg2video,flv,live_flv,asf,ogg,3gp,rm,mxf,nut,"
    "ivf,obu,av1,h264,hevc,vvc,m4v,h263,vc1,dv,gxf,swf,gif,wtv,y4m,yuv4mpegpipe"
)
KEEP_PACKETS_BYTES = 64 * 2**20
NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails


class Packet(NamedTuple):
    """What the plan needs of a packet. ``pts`` in units of the track's time base; None when the file has none."""

    pts: int | None
    key: bool
    discard: bool


@dataclass
class Track:
    """One video stream of an open container, ready to decode on one thread."""

    container: Any
    stream: Any
    context: Any
    errors: int = 0
    packets: int = 0

    @property
    def ordered_by_pts(self) -> bool:
        """Whether pts tell the order of display: AVI has none, and those FFmpeg makes up ignore B-frames."""
        return not (self.container.format.name == "avi" and self.context.has_b_frames)

    def demux(self, budget: Budget, max_packets: int) -> Iterator[Any]:
        """Yield the packets with data in file order; damage while reading ends them and counts as an error.

        Raises DecodeError when the time is spent, when there are too many and when there are none.
        """
        packets = self.container.demux(self.stream)
        while True:
            budget.check()
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, IndexError, ValueError):  # IndexError: MPEG-TS with a late stream
                self.errors += 1
                packet = None
            if packet is None:
                break
            if packet.size:
                self.packets += 1
                if self.packets > max_packets:
                    raise DecodeError("too_many_packets", f"More than {max_packets} packets.")
                yield packet
        if not self.packets:
            raise DecodeError("no_packets", "A header, but no video data.")

    def decode(self, packet: Any | None) -> list[Any]:
        """Return the frames that come out when ``packet`` goes in (None drains); damage counts as an error."""
        try:
            frames: list[Any] = self.context.decode(packet)
        except (av.error.FFmpegError, ValueError):
            if packet is not None:
                self.errors += 1
            return []
        return frames


def check_file(path: Path, limits: LimitsConfig) -> int:
    """Size in bytes of a regular file worth opening; opening a pipe would block for ever."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DecodeError("missing", f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise DecodeError("unreadable", f"Cannot look at {path}: {error}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("not_a_file", f"{path} is not a regular file.")
    if status.st_size == 0:
        raise DecodeError("empty_file", f"{path} has 0 bytes.")
    if status.st_size > limits.max_bytes:
        raise DecodeError("too_large", f"{status.st_size} bytes, more than {limits.max_bytes}.")
    return status.st_size


@contextmanager
def open_track(path: Path, limits: LimitsConfig) -> Iterator[Track]:
    """Open ``path`` and its best video track; DecodeError when it has none."""
    try:
        container = av.open(
            # An absolute path is never read as a protocol such as concat:
            os.path.abspath(path),  # noqa: PTH100 - no symlink is to be resolved
            metadata_errors="ignore",
            options={"max_pixels": str(limits.max_pixels)},
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        )
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
        yield Track(container, stream, context)


def _best_stream(container: Any) -> Any:
    """Choose the video stream marked default, else the largest: the first one may be a thumbnail."""
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
