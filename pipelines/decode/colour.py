"""Frames of any pixel format to RGB, with the same bytes on every processor."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from av.video.reformatter import Colorspace
from av.video.reformatter import Interpolation as Sws
from numpy.typing import NDArray

EXACT: Final = Sws.FULL_CHR_H_INT | Sws.ACCURATE_RND | Sws.BITEXACT
"""Without these, vector instructions round differently from plain C and from each other, by up to 3 of 255, tables are
looked up that are a level too dark, and an even width gets half the colours."""
CONVERT: Final = Sws.BILINEAR | EXACT
RESIZE: Final = Sws.BICUBIC | EXACT
HD_WIDTH: Final = 1280
HD_HEIGHT: Final = 720
UNTAGGED: Final = (2, 3)
"""FFmpeg's colour spaces "unspecified" and "reserved"."""

Plane = NDArray[np.uint8]


def to_planes(frame: Any, reformatter: Any, size: tuple[int, int] | None = None) -> list[Plane]:
    """Red, green and blue of a frame, uint8 [height, width] each, resized to ``size`` (width, height) if given.

    Matrix and range are those the frame is tagged with. Without a tag, players take BT.709 for HD and BT.601 for the
    rest, and so does this. Transfer functions are not converted. Raises FFmpegError for what swscale cannot convert.
    """
    width, height = size or (None, None)
    is_rgb = frame.format.is_rgb
    matrix = _guess(frame) if frame.colorspace in UNTAGGED and not is_rgb else None
    made = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24" if is_rgb else "gbrp",  # planes have accurate vector instructions, packed pixels have none
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=RESIZE if size else CONVERT,
        threads=1,
    )
    if is_rgb:
        return list(np.moveaxis(made.to_ndarray(), -1, 0))
    green, blue, red = (_array(plane) for plane in made.planes)
    return [red, green, blue]


def to_rgb(frame: Any, reformatter: Any, size: tuple[int, int] | None = None) -> Plane:
    """What ``to_planes`` gives in one array [height, width, 3]."""
    return np.stack(to_planes(frame, reformatter, size), axis=-1)


def _array(plane: Any) -> Plane:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _guess(frame: Any) -> Colorspace:
    is_hd = frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT
    return Colorspace.ITU709 if is_hd else Colorspace.ITU601
