"""What an index keeps to show a video: small pictures and their times, and frame vectors to find its best moment."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from gare.common.errors import InputError
from gare.common.redact import first_line
from gare.common.spread import thin
from gare.data.batches import View
from gare.data.shards import Split
from gare.scoring.factors import Videos

PICTURES = 6
"""Most pictures of a video."""

SIDE = 144
"""Shorter side of a picture in pixels, if the stored frames are not smaller."""

QUALITY = 60

BATCH = 256
"""Videos in a batch of a file."""

MEDIA = pa.schema(
    [
        pa.field("codec", pa.string(), nullable=False),
        pa.field("times_s", pa.list_(pa.float64()), nullable=False),
        pa.field("frames", pa.binary(), nullable=False),
        pa.field("pictures_s", pa.list_(pa.float64()), nullable=False),
        pa.field("pictures", pa.list_(pa.binary()), nullable=False),
    ]
)
"""``times_s``: when the frames that the model read are shown, in seconds of the file; ``frames``: their embeddings
before the temporal transformer, float16, or empty; ``pictures``: JPEG, or none."""


@dataclass(frozen=True)
class Kept:
    """Which parts an index keeps: small pictures, and frame vectors by which windows of a video are scored."""

    previews: bool = True
    windows: bool = True

    def __bool__(self) -> bool:
        return self.previews or self.windows


@dataclass(frozen=True)
class Media:
    """One video: codec of its source, its frames' times and embeddings [n, D] (None: not kept), times of pictures."""

    codec: str
    times_s: list[float]
    frames: Tensor | None
    pictures_s: list[float]

    @property
    def bounds_s(self) -> tuple[float, float]:
        """The first and the last known second of the video or clip in its file."""
        times = [*self.times_s, *self.pictures_s]
        return (min(times), max(times)) if times else (0.0, 0.0)


def make_media(part: Split, numbers: Sequence[int], view: View, embedded: Videos | None, kept: Kept) -> pa.Table:
    """Return the media of some videos of a split, a row each.

    ``embedded``: the embeddings of their frames before the temporal transformer, if windows are kept.
    """
    rows = []
    for row, number in enumerate(numbers):
        times = part.timestamps(number)
        frames = b""
        if embedded is not None and kept.windows:
            vectors = embedded.frames[row][embedded.frame_mask[row]].cpu()
            frames = vectors.clamp(-_LARGEST, _LARGEST).to(torch.float16).numpy().tobytes()
        picks = thin(len(times), PICTURES) if kept.previews else []
        pictures = [small_jpeg(picture) for picture in part.pictures(number, picks)]
        rows.append(
            {
                "codec": part.codec(number),
                "times_s": [times[n] for n in view.picks(len(times))],
                "frames": frames,
                "pictures_s": [times[n] for n in picks],
                "pictures": pictures,
            }
        )
    return pa.Table.from_pylist(rows, MEDIA)


_LARGEST = torch.finfo(torch.float16).max


def small_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture [H, W, 3] as a JPEG whose shorter side is at most ``SIDE``."""
    from PIL import Image

    image, stream = Image.fromarray(np.ascontiguousarray(picture)), io.BytesIO()
    scale = SIDE / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), reducing_gap=2.0)
    image.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


class MediaWriter:
    """Writes media in batches of one size, so that the bytes do not depend on how the videos came."""

    def __init__(self, path: Path) -> None:
        """Open a new file."""
        self._writer, self._waiting = pa.ipc.new_file(str(path), MEDIA), MEDIA.empty_table()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write(1)
        self._writer.close()

    def add(self, media: pa.Table) -> None:
        """Append the media of some videos."""
        self._waiting = pa.concat_tables([self._waiting, media])
        self._write(BATCH)

    def _write(self, least: int) -> None:
        while len(self._waiting) >= least:
            self._writer.write_table(self._waiting[:BATCH].combine_chunks())
            self._waiting = self._waiting[BATCH:]


class MediaFile:
    """The media of a segment's videos: a mapped file of which only the rows that are asked for are read."""

    def __init__(self, path: Path, count: int) -> None:
        """Map the file. Raises InputError if it is missing, damaged or not that of ``count`` videos."""
        self.path = path
        try:
            self.table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            self.table.validate(full=True)  # unchecked offsets of a damaged file could crash the process
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"Cannot read {path}: {first_line(error)}. Make the index again.") from None
        if not self.table.schema.equals(MEDIA) or self.table.num_rows != count or _has_nulls(self.table):
            raise InputError(f"{path} does not hold the media of its {count} videos. Make the index again.")

    def read(self, row: int, dim: int) -> Media:
        """Read a video's media; frames [n, ``dim``] in float32. Raises InputError for values that do not fit."""
        one = {name: self.table[name][row] for name in ("codec", "times_s", "frames", "pictures_s")}
        content, times, pictures_s = one["frames"].as_buffer(), one["times_s"].as_py(), one["pictures_s"].as_py()
        if not np.isfinite([*times, *pictures_s]).all() or len(pictures_s) != len(self.table["pictures"][row]):
            raise self._damaged()
        frames = None
        if len(content):
            if len(content) != 2 * dim * len(times):
                raise self._damaged()
            frames = torch.from_numpy(np.frombuffer(content, np.float16).reshape(-1, dim).astype(np.float32))
            if not bool(torch.isfinite(frames).all()):
                raise self._damaged()
        return Media(one["codec"].as_py(), times, frames, pictures_s)

    def picture(self, row: int, number: int) -> bytes | None:
        """Return a picture of a video; None if there is none of this number."""
        pictures = self.table["pictures"][row]
        return bytes(pictures.values[number].as_buffer()) if 0 <= number < len(pictures) else None

    def _damaged(self) -> InputError:
        return InputError(f"{self.path} holds values that cannot be right: it is damaged. Make the index again.")


def _has_nulls(table: pa.Table) -> bool:
    inside = (chunk.values for name in ("times_s", "pictures_s", "pictures") for chunk in table[name].chunks)
    return any(column.null_count for column in table.columns) or any(values.null_count for values in inside)
