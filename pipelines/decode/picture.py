"""Turn a decoded frame into the stored picture: RGB, crop and resize in one step, square pixels, upright."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, Final, NamedTuple

import av
import av.error
import av.filter
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace
from av.video.reformatter import Interpolation as Sws
from numpy.typing import NDArray
from PIL import Image

from gare.config.prepare import PrepareConfig
from pipelines.decode.errors import DecodeError

EXACT: Final = Sws.FULL_CHR_H_INT | Sws.ACCURATE_RND | Sws.BITEXACT
"""Without these, vector instructions round differently from plain C and from each other, by up to 3 of 255, lookup
tables are one level too dark, and an even width gets half the colour resolution."""
CONVERT: Final = Sws.BILINEAR | EXACT
RESIZE: Final = Sws.BICUBIC | EXACT
HD_WIDTH: Final = 1280
HD_HEIGHT: Final = 720
UNTAGGED: Final = (2, 3)
"""FFmpeg's colour spaces "unspecified" and "reserved"."""

Plane = NDArray[np.uint8]


def to_planes(frame: Any, reformatter: Any, size: tuple[int, int] | None = None) -> list[Plane]:
    """Return red, green and blue of a frame, uint8 [height, width] each, resized to ``size`` (width, height) if given.

    Matrix and range are those of the frame's tags. Without a tag, players use BT.709 for HD and BT.601 otherwise, and
    so does this. Transfer functions are not converted. Raises FFmpegError if swscale cannot convert the frame.
    """
    width, height = size or (None, None)
    is_rgb = frame.format.is_rgb
    matrix = _guess(frame) if frame.colorspace in UNTAGGED and not is_rgb else None
    made = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24" if is_rgb else "gbrp",  # only planar formats have accurate vector instructions
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
    """Return the planes of ``to_planes`` as one array [height, width, 3]."""
    return np.stack(to_planes(frame, reformatter, size), axis=-1)


def _array(plane: Any) -> Plane:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _guess(frame: Any) -> Colorspace:
    is_hd = frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT
    return Colorspace.ITU709 if is_hd else Colorspace.ITU601


Picture = NDArray[np.uint8]
UNKNOWN_TO_PYAV: Final = sorted(set(range(48)) - {kind.value for kind in Type})
"""Kinds of side data that PyAV fails on because it does not know them; FFmpeg has or may add them."""


class Orientation(NamedTuple):
    """One of the eight ways to turn a picture: reverse its columns and its rows, then swap rows and columns."""

    columns: bool = False
    rows: bool = False
    swap: bool = False

    @classmethod
    def nearest(cls, matrix: list[int]) -> Orientation:
        """Return the one closest to a display matrix, FFmpeg's nine integers by row; for zeros, as stored.

        A pixel at (x, y) is shown at (a x + c y, b x + d y), where a, b, c, d are the entries 0, 1, 3 and 4.
        """
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(b < 0, c < 0, swap=True)
        return cls(a < 0, d < 0)

    def upright(self, stored: Picture) -> Picture:
        """Return a turned view of the picture [height, width, 3]; with rows and columns swapped, [width, height, 3]."""
        turned = stored[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
        return turned.swapaxes(0, 1) if self.swap else turned


AS_STORED: Final = Orientation()


def orientation(frame: Any, otherwise: Orientation = AS_STORED) -> Orientation:
    """Return the orientation, mirroring included, of a frame's display matrix; ``otherwise`` if it has none.

    A container's matrix takes precedence over the stream's own, as in FFmpeg's own tools.
    """
    try:
        side_data = list(frame.side_data)
    except ValueError:  # PyAV fails on kinds that it does not know, such as Exif
        side_data = list(_without_unknown(frame).side_data)
    for data in side_data:
        if data.type is Type.DISPLAYMATRIX:
            return Orientation.nearest(np.frombuffer(data, np.int32).tolist())
    return otherwise


def stated_orientation(packet: Any, stream: Any) -> Orientation:
    """Return the orientation that an H.264 packet states (a display orientation message); as stored without one.

    It applies to this and all following frames, but FFmpeg's decoder reports it only for this packet's frame.
    """
    try:
        extract = av.BitStreamFilterContext("h264_metadata=display_orientation=extract", stream)
        changed = extract.filter(av.Packet(bytes(packet)))  # a copy: a filter consumes the data
    except (av.error.FFmpegError, ValueError):  # a damaged packet that the decoder may still decode
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


BICUBIC_RADIUS: Final = 2
MOST_WIDENED: Final = 1.3
SQUARE: Final = Fraction(1)


def resized(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return width and height resized so that the shorter is ``short_side`` pixels; the other is truncated."""
    shorter = min(width, height)
    return max(short_side, width * short_side // shorter), max(short_side, height * short_side // shorter)


def can_be_shape(recipe: PrepareConfig, height: int, width: int) -> bool:
    """Return True if ``picture`` can make frames of this shape."""
    if recipe.crop is not None:
        return height == width == recipe.crop
    short, long = sorted((height, width))
    return short == recipe.short_side and long <= recipe.short_side * recipe.limits.max_aspect


def kept(length: int, crop: int | None, *, backwards: bool) -> slice:
    """Return the centre ``crop`` of ``length`` pixels, or all; ``backwards``: centred as seen on the reversed axis."""
    if crop is None:
        return slice(0, length)
    start = round((length - crop) / 2)
    start = length - crop - start if backwards else start
    return slice(start, start + crop)


class Cut(NamedTuple):
    """One axis of a crop: source pixels ``low`` to ``high`` become ``pixels``, the kept ones starting at ``skip``."""

    low: float
    high: float
    pixels: int
    skip: int


def cut(source: int, whole: int, start: int, length: int) -> Cut:
    """Find the part of ``source`` pixels that becomes pixels ``start`` to ``start + length`` of ``whole``.

    PIL keeps bounds in single precision, which is visible in smooth gradients. So a few more pixels than needed are
    made if that gives bounds that are whole numbers; otherwise the bounds are fractions, and the difference is noise.
    """
    grid = whole // math.gcd(source, whole)
    first, last = start // grid * grid, min(whole, -(-(start + length) // grid) * grid)
    if last - first <= MOST_WIDENED * length:
        return Cut(first * source / whole, last * source / whole, last - first, start - first)
    return Cut(start * source / whole, min(float(source), (start + length) * source / whole), length, 0)


def picture(
    frame: Any,
    reformatter: Any,
    recipe: PrepareConfig,
    pixel_shape: Fraction = SQUARE,
    otherwise: Orientation = AS_STORED,
) -> Picture:
    """Return RGB uint8 [height, width, 3] of a frame that PyAV decoded, as players show it: see ``fitted``.

    ``otherwise``: its orientation if it does not state one.
    """
    turn = orientation(frame, otherwise)
    planes, resize = partial(to_planes, frame, reformatter), partial(to_rgb, frame, reformatter)
    return fitted((frame.width, frame.height), recipe, pixel_shape, turn, planes, resize)


def fitted(
    size: tuple[int, int],
    recipe: PrepareConfig,
    pixel_shape: Fraction,
    turn: Orientation,
    planes: Callable[[], list[Plane]],
    resize: Callable[[tuple[int, int]], Picture] | None = None,
) -> Picture:
    """Make the stored picture of a frame as players show it: bicubic with antialias, upright.

    Args:
        size: width and height of the frame as stored in the file.
        recipe: the target sizes.
        pixel_shape: width over height of the frame's pixels, before it is turned.
        turn: how to turn it for display.
        planes: returns the frame's red, green and blue, uint8 [height, width] each.
        resize: returns the frame in a given size, uint8 [height, width, 3], for ``prepare.resize`` swscale.

    Returns:
        RGB uint8 [height, width, 3]. Raises DecodeError(too_elongated) for a frame that is shown longer than
        ``limits.max_aspect`` and is not cropped. Such a frame is never resized whole: with swscale and a crop, it goes
        through PIL.

    """
    pixel_shape = pixel_shape if recipe.square_pixels else SQUARE
    shown = size[0] * pixel_shape.numerator, size[1] * pixel_shape.denominator
    elongated = max(shown) > recipe.limits.max_aspect * min(shown)
    if elongated and recipe.crop is None:
        what = f"{size[0]} x {size[1]} pixels" + (f" of shape {pixel_shape}" if pixel_shape != 1 else "")
        raise DecodeError("too_elongated", f"{what}; set prepare.crop, or prepare.limits.max_aspect.")
    width, height = resized(*shown, recipe.short_side)
    across, down = kept(width, recipe.crop, backwards=turn.columns), kept(height, recipe.crop, backwards=turn.rows)
    if resize is not None and recipe.resize == "swscale" and not elongated:
        made = resize((width, height))[down, across]
    else:
        made = _by_pil(planes(), (width, across), (height, down))
    return np.ascontiguousarray(turn.upright(made))


def _by_pil(planes: list[Plane], columns: tuple[int, slice], rows: tuple[int, slice]) -> Picture:
    """Crop and resize in one step, as if resizing the whole frame and then cutting out its centre square.

    ``columns``, ``rows``: the number for the whole frame, and which of them are kept. Cropping first costs the same
    for every shape, even a strip of 8192 x 2.
    """
    (width, across), (height, down) = columns, rows
    source_height, source_width = planes[0].shape
    x = cut(source_width, width, across.start, across.stop - across.start)
    y = cut(source_height, height, down.start, down.stop - down.start)
    made = _resize(planes, x, y)
    return made[y.skip : y.skip + down.stop - down.start, x.skip : x.skip + across.stop - across.start]


def _resize(planes: list[Plane], columns: Cut, rows: Cut) -> Picture:
    """Resize a rectangle of the colour planes, along rows first and then along columns.

    Pillow before 13 always did so; since then it chooses the order by the shape, and the order changes the rounding.
    """
    across, down = _reach(columns, planes[0].shape[1]), _reach(rows, planes[0].shape[0])
    part = Image.merge("RGB", [Image.fromarray(plane[down, across]) for plane in planes])
    box = columns.low - across.start, 0, columns.high - across.start, part.height
    wide = part.resize((columns.pixels, part.height), Image.Resampling.BICUBIC, box=box)
    box = 0, rows.low - down.start, columns.pixels, rows.high - down.start
    return np.asarray(wide.resize((columns.pixels, rows.pixels), Image.Resampling.BICUBIC, box=box))


def _reach(axis: Cut, end: int) -> slice:
    """Return the bounds of the source pixels that contribute."""
    support = BICUBIC_RADIUS * max(1.0, (axis.high - axis.low) / axis.pixels) + 1
    return slice(max(0, math.floor(axis.low - support)), min(end, math.ceil(axis.high + support)))
