"""Frames of any pixel format to RGB, with the same bytes on every processor."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from av.video.reformatter import Colorspace
from av.video.reformatter import Interpolation as Sws
from numpy.typing import NDArray

EXACT: Final = Sws.ACCURATE_RND | Sws.BITEXACT
"""Without these, vector instructions round differently from plain C and from each other, by up to 3 of 255."""
CONVERT: Final = Sws.POINT | Sws.FULL_CHR_H_INT | EXACT
"""The colour of the nearest sample, as the quick conversions take it. FULL_CHR_H_INT computes where tables would be
looked up that are a level or two too dark."""
RESIZE: Final = Sws.BICUBIC | Sws.FULL_CHR_H_INT | EXACT
"""Bicubic; without FULL_CHR_H_INT an even width gets half the colours, several grey levels off."""
HD_WIDTH: Final = 1280
HD_HEIGHT: Final = 720
UNTAGGED: Final = (2, 3)
"""FFmpeg's colour spaces "unspecified" and "reserved"."""


def to_rgb(frame: Any, reformatter: Any, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """RGB uint8 [height, width, 3] of a frame, resized to ``size`` (width, height) where that is given.

    Matrix and range are those the frame is tagged with. Without a tag, players take BT.709 for HD and BT.601 for the
    rest, and so does this. Transfer functions are not converted. Raises FFmpegError for what swscale cannot convert.
    """
    width, height = size or (None, None)
    matrix = _guess(frame) if frame.colorspace in UNTAGGED and not frame.format.is_rgb else None
    rgb = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=RESIZE if size else CONVERT,
        threads=1,
    )
    made: NDArray[np.uint8] = rgb.to_ndarray()
    return made


def _guess(frame: Any) -> Colorspace:
    is_hd = frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT
    return Colorspace.ITU709 if is_hd else Colorspace.ITU601
