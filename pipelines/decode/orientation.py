"""How a decoded frame has to be turned: decoders hand out pictures as they are stored."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import av
import av.error
import av.filter
import numpy as np
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
UNKNOWN_TO_PYAV: Final = sorted(set(range(48)) - {kind.value for kind in Type})
"""Numbers of kinds of side data that FFmpeg has or may come to have, and that PyAV fails on."""


class Orientation(NamedTuple):
    """One of the eight ways to turn a picture: reverse its columns and its rows, then swap rows and columns."""

    columns: bool = False
    rows: bool = False
    swap: bool = False

    @classmethod
    def nearest(cls, matrix: list[int]) -> Orientation:
        """The one closest to a display matrix, FFmpeg's nine integers by row; as stored for one of zeros.

        A pixel at (x, y) is shown at (a x + c y, b x + d y), where a, b, c, d are the entries 0, 1, 3 and 4.
        """
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(b < 0, c < 0, swap=True)
        return cls(a < 0, d < 0)

    def upright(self, stored: Picture) -> Picture:
        """A view of the picture [height, width, 3], turned; [width, height, 3] where rows and columns are swapped."""
        turned = stored[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
        return turned.swapaxes(0, 1) if self.swap else turned


AS_STORED: Final = Orientation()


def orientation(frame: Any, otherwise: Orientation = AS_STORED) -> Orientation:
    """The orientation that a frame's display matrix asks for, mirroring included; ``otherwise`` where it has none.

    The container's matrix comes before one that the stream has itself, as with FFmpeg's own tools.
    """
    try:
        side_data = list(frame.side_data)
    except ValueError:  # PyAV fails on kinds that it does not know, Exif among them
        side_data = list(_without_unknown(frame).side_data)
    for data in side_data:
        if data.type is Type.DISPLAYMATRIX:
            return Orientation.nearest(np.frombuffer(data, np.int32).tolist())
    return otherwise


def stated_orientation(packet: Any, stream: Any) -> Orientation:
    """What an H.264 packet says of the frames from there on (a display orientation message); as stored without.

    FFmpeg's decoder gives that to the frame of this packet only, though it holds for those that follow.
    """
    try:
        extract = av.BitStreamFilterContext("h264_metadata=display_orientation=extract", stream)
        changed = extract.filter(av.Packet(bytes(packet)))  # a copy: a filter takes the data away
    except (av.error.FFmpegError, ValueError):  # a damaged packet, which the decoder may make something of
        return AS_STORED
    if not changed or not changed[0].has_sidedata("display_matrix"):
        return AS_STORED
    return Orientation.nearest(np.frombuffer(bytes(changed[0].get_sidedata("display_matrix")), np.int32).tolist())


def _without_unknown(frame: Any) -> Any:
    graph = av.filter.Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    for kind in UNKNOWN_TO_PYAV:
        deletes = graph.add("sidedata", f"mode=delete:type={kind}")
        last.link_to(deletes)
        last = deletes
    last.link_to(sink := graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    return sink.pull()
