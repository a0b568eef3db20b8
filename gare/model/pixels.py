"""Describe a CLIP's preprocessing: how pixels are normalised and how its training pictures were resized."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gare.common.errors import InputError
from gare.common.files import write_json
from gare.common.records import is_number, read_object
from gare.common.redact import shown

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
FILES = (PREPROCESSOR, PROCESSOR)
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Resizing filters, in the order of PIL's numbers."""
BICUBIC = "bicubic"

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation of each colour, on values in [0, 1], and what is known of resizing.

    ``resample``: one of ``FILTERS``. ``squeezed``: whole pictures are made square, whatever their shape; otherwise
    their centre square is taken. ``short_side``: pixels of the shorter side before that; None if it is the image size.
    Resizing does not count for equality: frames were resized when they were prepared.
    """

    mean: Triple
    std: Triple
    resample: str = field(default=BICUBIC, compare=False)
    squeezed: bool = field(default=False, compare=False)
    short_side: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"mean {list(self.mean)} and std {list(self.std)}"

    def unlike_prepared(self, short_side: int | None) -> str | None:
        """Describe in a sentence how frames that ``prepare`` resized to ``short_side`` differ; None if they do not.

        ``short_side``: None if unknown, which then counts as no difference.
        """
        theirs = []
        if self.squeezed:
            theirs.append("squeezes whole pictures into squares, where prepare keeps their shape and a centre square")
        elif self.short_side is not None and short_side not in (None, self.short_side):
            theirs.append(
                f"takes a centre square of pictures whose shorter side is {self.short_side} pixels, where "
                f"prepare.short_side is {short_side}"
            )
        if self.resample != BICUBIC:
            theirs.append(f"resizes by a {self.resample} filter, where prepare resizes by a {BICUBIC} one")
        if not theirs:
            return None
        return (
            f"The preprocessing that the CLIP model comes with {' and '.join(theirs)}: without training, results may "
            "be below those published for it."
        )


OPENAI_PIXELS = Pixels((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read_pixels(folder: Path, image_size: int, unstated: Pixels) -> Pixels:
    """Read the preprocessing of a CLIP folder; ``unstated`` if it has no file that describes it.

    Raises InputError for preprocessing that differs from ours in more than how pictures become squares, or that does
    not fit ``image_size``.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        return unstated
    values = read_object(path)
    if path.name == PROCESSOR:
        values = values.get("image_processor") or {}
        if not isinstance(values, dict):
            raise InputError(f"{path} describes no image processor.")
    _check_steps(values, path)
    statistics = read_statistics(values.get("image_mean"), values.get("image_std"), path, unstated)
    squeezed, short_side = _shape(values, image_size, path)
    return replace(statistics, resample=_filter(values, path), squeezed=squeezed, short_side=short_side)


def read_statistics(mean: Any, std: Any, path: Path, unstated: Pixels = OPENAI_PIXELS) -> Pixels:
    """Return the statistics that a file at ``path`` states, else those of ``unstated``; InputError if unusable."""
    mean = unstated.mean if mean is None else _triple(mean, "mean", path)
    std = unstated.std if std is None else _triple(std, "std", path)
    if min(std) <= 0:
        raise InputError(f"{path} has the std {list(std)}; each has to be above 0.")
    return Pixels(mean, std)


def write_pixels(folder: Path, pixels: Pixels, image_size: int) -> None:
    """Write them in the format of transformers' CLIP image processor."""
    square = {"height": image_size, "width": image_size}
    write_json(
        folder / PREPROCESSOR,
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": square if pixels.squeezed else {"shortest_edge": pixels.short_side or image_size},
            "resample": FILTERS.index(pixels.resample),
            "do_center_crop": not pixels.squeezed,
            "crop_size": square,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(pixels.mean),
            "image_std": list(pixels.std),
            "do_convert_rgb": True,
        },
    )


def _check_steps(values: dict[str, Any], path: Path) -> None:
    for key in ("do_rescale", "do_normalize"):
        if values.get(key, True) is not True:
            raise InputError(
                f"{path} says {key}: {shown(values[key])}; here frames are always rescaled and normalised."
            )
    factor = values.get("rescale_factor", 1 / 255)
    if not is_number(factor) or abs(factor * 255 - 1) > 1e-4:
        raise InputError(f"{path} says rescale_factor: {shown(factor)}; frames are divided by 255 here.")


def _filter(values: dict[str, Any], path: Path) -> str:
    number = values.get("resample", FILTERS.index(BICUBIC))
    if type(number) is not int or not 0 <= number < len(FILTERS):
        raise InputError(f"{path} says resample: {shown(number)}; PIL's filters are 0 to {len(FILTERS) - 1}.")
    return FILTERS[number]


def _shape(values: dict[str, Any], image_size: int, path: Path) -> tuple[bool, int | None]:
    """Return (squeezed, shorter side if not squeezed); InputError unless the result has the image tower's size."""
    size, crops = values.get("size"), bool(values.get("do_center_crop", True)) and "crop_size" in values
    if values.get("do_pad"):
        raise InputError(f"{path} says do_pad: {shown(values['do_pad'])}; frames are never padded here.")
    squeezed = isinstance(size, dict) and size.keys() == {"height", "width"}
    short_side = size.get("shortest_edge") if isinstance(size, dict) else size
    if not squeezed and size is not None:
        known = not isinstance(size, dict) or size.keys() == {"shortest_edge"}
        if not known or type(short_side) is not int or not image_size <= short_side < 2**16:
            raise InputError(
                f"{path} makes images of size {shown(size)}; a height and a width or a shortest edge of {image_size} "
                "pixels or more can be used."
            )
    ends = values["crop_size"] if crops else size if squeezed else None
    sides = list(ends.values()) if isinstance(ends, dict) else [ends]
    if ends is not None and (not sides or any(type(side) is not int or side != image_size for side in sides)):
        raise InputError(
            f"{path} makes images of {'crop_size' if crops else 'size'} {shown(ends)}, but config.json's image tower "
            f"takes {image_size} pixels."
        )
    return squeezed, None if squeezed or short_side == image_size else short_side


def _triple(value: Any, key: str, path: Path) -> Triple:
    values = [value] * 3 if is_number(value) else value
    if not isinstance(values, list) or len(values) != 3 or not all(map(is_number, values)):
        raise InputError(f"{path} has the {key} {shown(value)}; three finite numbers are needed, one for each colour.")
    return float(values[0]), float(values[1]), float(values[2])
