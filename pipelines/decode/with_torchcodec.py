"""Decode with torchcodec the frames that the packets of a file name, if it shows them as players do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pipelines.decode.clip_job import Kept
from pipelines.decode.errors import DecodeError, check_room
from pipelines.decode.picture import AS_STORED, HD_HEIGHT, HD_WIDTH, UNTAGGED, Orientation, fitted, orientation
from pipelines.decode.planned import Planned

FFMPEG: Final = ("avcodec", "avdevice", "avfilter", "avformat", "avutil", "swresample", "swscale")
"""The FFmpeg libraries that torchcodec loads."""
QUARTER: Final = 90


class First(NamedTuple):
    """PyAV's facts about a file's first frame: width and height as stored, its orientation, and its colours."""

    size: tuple[int, int]
    turn: Orientation
    as_bt601: bool


class WithTorchcodec(Planned):
    """A file whose planned frames torchcodec decodes.

    PyAV still opens the file within its limits, reads the packets, and decodes the first frame and whatever is not
    planned. It also decodes files for which torchcodec would give different pictures: those without a colour matrix
    that players show as BT.709, and those it fails on. Their rows have the note ``decoded_by_pyav``.
    """

    elsewhere = ("decoded_by_pyav",)
    _first: First | None = None
    _decoder: Any = None

    @classmethod
    def load(cls) -> None:
        """Import torchcodec, which loads torch and FFmpeg."""
        import torch

        import_module("torchcodec.decoders")
        torch.set_num_threads(1)

    @classmethod
    @contextmanager
    def environment(cls) -> Iterator[Mapping[str, str]]:
        """Let torchcodec find the FFmpeg that PyAV bundles, under the names it looks for.

        Without one (PyAV built from source), torchcodec looks for the system's FFmpeg.
        """
        bundled = _bundled()
        with tempfile.TemporaryDirectory(prefix="gare-ffmpeg-") as links:
            for library in bundled:
                number = library.name.partition(".so.")[2].partition(".")[0]
                (Path(links) / f"{library.name.partition('-')[0]}.so.{number}").symlink_to(library)
            before = os.environ.get("LD_LIBRARY_PATH", "")
            folders = [links, *{str(library.parent) for library in bundled}, *filter(None, [before])]
            yield {"LD_LIBRARY_PATH": os.pathsep.join(folders)} if bundled else {}

    def look_at_first(self, frame: Any) -> None:
        """Record what torchcodec does not report."""
        is_hd = frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT
        untagged = frame.colorspace in UNTAGGED and not frame.format.is_rgb
        turn = orientation(frame, self._track.orientation or AS_STORED)
        self._first = First((frame.width, frame.height), turn, as_bt601=untagged and is_hd)

    def pictures(self, wanted: Sequence[int], *, alone: bool) -> dict[int, Kept] | None:
        """Decode some shown frames with torchcodec; decode clips it fails on with PyAV, each alone."""
        self.notes = ()
        if self._first is None and super().pictures([], alone=alone) is None:
            return None
        made = self._made(wanted)
        if made is None and alone:
            self.notes = self.elsewhere
            return super().pictures(wanted, alone=alone)
        return made

    def close(self) -> None:
        """Release the file and its packets."""
        self._decoder = None
        super().close()

    def _made(self, wanted: Sequence[int]) -> dict[int, Kept] | None:
        first, shown = self._first, self._shown
        if first is None or shown is None or first.as_bt601 or shown.repeated[list(wanted)].any():
            return None
        unit = self._track.stream.time_base
        made: dict[int, Kept] = {}
        try:
            for i in wanted:
                self._job.budget.check()
                rgb = self._decoded(float(shown.pts[i] * unit), float(unit))
                if rgb is None or (rgb.shape[1], rgb.shape[0]) != first.size:
                    return None
                made[i] = self._kept(rgb, first)
        except (DecodeError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - PyAV will report the actual fault
            check_room(first.size[0] * first.size[1])
            return None
        return made

    def _decoded(self, moment_s: float, tick_s: float) -> Any:
        """Decode the frame at ``moment_s``, uint8 [height, width, 3] as stored; None if a different one comes out."""
        if self._decoder is None:
            self._decoder = import_module("torchcodec.decoders").VideoDecoder(
                os.path.abspath(self._job.path),  # noqa: PTH100 - same as for PyAV
                stream_index=self._track.stream.index,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device="cpu",
            )
        frame = self._decoder.get_frame_played_at(moment_s + tick_s / 4)
        if abs(frame.pts_seconds - moment_s) > tick_s / 2:
            return None
        turned = round((self._decoder.metadata.rotation or 0) / QUARTER)
        return np.rot90(frame.data.numpy(), -turned)

    def _kept(self, rgb: Any, first: First) -> Kept:
        planes = [rgb[..., channel] for channel in range(3)]
        made = fitted(first.size, self._job.recipe, self._track.pixel_shape, first.turn, lambda: planes)
        return Kept(made, first.size)


def _bundled() -> list[Path]:
    """Return the FFmpeg libraries inside PyAV's wheel; empty unless all are there."""
    import av

    folder = Path(av.__file__).parent.parent / "av.libs"
    found = [path for name in FFMPEG for path in sorted(folder.glob(f"lib{name}-*.so.*"))]
    return found if len(found) == len(FFMPEG) else []
