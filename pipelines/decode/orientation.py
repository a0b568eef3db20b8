"""How a decoded frame has to be turned: decoders hand out pictures as they are stored."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

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


def orientation(frame: Any) -> Orientation:
    """The orientation that a frame's display matrix asks for, mirroring included; the first one counts.

    It is the container's, or the one of an H.264 or HEVC stream that says it itself.
    """
    try:
        side_data = list(frame.side_data)
    except ValueError:  # PyAV fails on kinds that it does not know, Exif among them
        side_data = list(_without_unknown(frame).side_data)
    for data in side_data:
        if data.type is Type.DISPLAYMATRIX:
            return Orientation.nearest(np.frombuffer(data, np.int32).tolist())
    return Orientation()


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
