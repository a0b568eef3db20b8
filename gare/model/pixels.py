"""How a CLIP takes its pixels: the statistics they are normalised by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare.common.errors import InputError
from gare.common.files import write_json
from gare.common.records import read_object
from gare.common.redact import shown

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
FILES = (PREPROCESSOR, PROCESSOR)
BICUBIC = 3

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation of each colour, on values in [0, 1]."""

    mean: Triple
    std: Triple

    def __str__(self) -> str:
        return f"mean {list(self.mean)} and std {list(self.std)}"


OPENAI_PIXELS = Pixels((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def read_pixels(folder: Path, image_size: int) -> Pixels:
    """The statistics in a CLIP folder; OpenAI's where no file states any.

    Raises InputError for preprocessing that differs from ours otherwise, or does not fit ``image_size``.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        return OPENAI_PIXELS
    values = read_object(path)
    if path.name == PROCESSOR:
        values = values.get("image_processor") or {}
        if not isinstance(values, dict):
            raise InputError(f"{path} describes no image processor.")
    _check_steps(values, path)
    _check_size(values, image_size, path)
    return read_statistics(values.get("image_mean"), values.get("image_std"), path)


def read_statistics(mean: Any, std: Any, path: Path) -> Pixels:
    """The statistics that a file at ``path`` states; OpenAI's where it says nothing. InputError for unusable ones."""
    mean = OPENAI_PIXELS.mean if mean is None else _triple(mean, "mean", path)
    std = OPENAI_PIXELS.std if std is None else _triple(std, "std", path)
    if min(std) <= 0:
        raise InputError(f"{path} has the std {list(std)}; each has to be above 0.")
    return Pixels(mean, std)


def write_pixels(folder: Path, pixels: Pixels, image_size: int) -> None:
    """Write them as transformers' image processor of CLIP reads them."""
    write_json(
        folder / PREPROCESSOR,
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": image_size},
            "resample": BICUBIC,
            "do_center_crop": True,
            "crop_size": {"height": image_size, "width": image_size},
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
    if not _is_number(factor) or abs(factor * 255 - 1) > 1e-4:
        raise InputError(f"{path} says rescale_factor: {shown(factor)}; frames are divided by 255 here.")


def _check_size(values: dict[str, Any], image_size: int, path: Path) -> None:
    """The size that images end with has to be the image tower's."""
    key = "crop_size" if values.get("do_center_crop", True) and "crop_size" in values else "size"
    size = values.get(key)
    # A shortest edge alone says how frames are resized, not what of them the tower sees.
    if size is None or (key == "size" and isinstance(size, dict) and "shortest_edge" in size):
        return
    sides = list(size.values()) if isinstance(size, dict) else [size]
    if not sides or any(type(side) is not int or side != image_size for side in sides):
        raise InputError(
            f"{path} makes images of {key} {shown(size)}, but config.json's image tower takes {image_size} pixels."
        )


def _triple(value: Any, key: str, path: Path) -> Triple:
    values = [value] * 3 if _is_number(value) else value
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise InputError(f"{path} has the {key} {shown(value)}; three finite numbers are needed, one for each colour.")
    return float(values[0]), float(values[1]), float(values[2])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6 and math.isfinite(value)
