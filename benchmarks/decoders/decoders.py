"""The compared decoders, each written in its fastest plain form.

All do the same work: candidates at one per second, thinned by linspace to 12 frames, the shorter side to 224 pixels
(bicubic with antialias), the centre square, uint8 RGB. The peers resize with torch, which on uint8 is several times as
fast as PIL and within a hundredth of a grey level of it, or with PIL, as the released GARE code does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gare.common.spread import thin
from gare.config import PrepareConfig
from pipelines.decode import sampling

RECIPE: Final = PrepareConfig(short_side=224, crop=224)
SIDE: Final = 224


class Picked(NamedTuple):
    """``times_s`` from the first frame, and ``frames`` uint8 [n, 224, 224, 3]."""

    times_s: list[float]
    frames: NDArray[np.uint8]


Decoder = Callable[[Path], Picked]
Resize = Callable[[Any], NDArray[np.uint8]]


def ours(_: Resize) -> Decoder:
    """Make this project's decoder, as ``gare prepare`` calls it."""
    from pipelines.decode import decode_video

    def decode(path: Path) -> Picked:
        video = decode_video(path, recipe=RECIPE)
        return Picked(list(video.timestamps_s), np.stack(video.frames))

    return decode


def decord(resize: Resize, threads: int) -> Decoder:
    """Make decord's: times from its index, all picked frames in one batch; ``threads`` 0: decord's own choice."""
    module = import_module("decord")

    def decode(path: Path) -> Picked:
        reader = module.VideoReader(str(path), ctx=module.cpu(0), num_threads=threads)
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        picks = pick(times - times[0])
        frames = reader.get_batch(picks).asnumpy()
        return Picked([float(times[i] - times[0]) for i in picks], resize(frames))

    return decode


def torchcodec(resize: Resize, seek_mode: str) -> Decoder:
    """Make torchcodec's on one thread: frame numbers from its metadata, all picked frames in one batch."""
    video_decoder = import_module("torchcodec.decoders").VideoDecoder

    def decode(path: Path) -> Picked:
        reader = video_decoder(str(path), seek_mode=seek_mode, num_ffmpeg_threads=1)
        rate, count = reader.metadata.average_fps, len(reader)
        candidates = range(math.ceil(count / rate - sampling.TIME_TOLERANCE_S))
        numbers = [math.ceil(second * rate - sampling.TIME_TOLERANCE_S) for second in candidates]
        picks = [numbers[i] for i in thin(len(numbers), RECIPE.max_frames) if numbers[i] < count]
        batch = reader.get_frames_at(picks)
        times = (batch.pts_seconds - (reader.metadata.begin_stream_seconds or 0)).tolist()
        return Picked(times, resize(batch.data.permute(0, 2, 3, 1)))

    return decode


def sequential(resize: Resize) -> Decoder:
    """Make a plain PyAV loop on one thread: decode all, hold the candidates, convert the picked ones."""
    av = import_module("av")

    def decode(path: Path) -> Picked:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            first, candidates = None, []
            for frame in container.decode(stream):
                first = frame.time if first is None else first
                if frame.time - first >= len(candidates) / RECIPE.candidate_fps - sampling.TIME_TOLERANCE_S:
                    candidates.append((frame.time - first, frame))
            kept = [candidates[i] for i in thin(len(candidates), RECIPE.max_frames)]
            frames = np.stack([frame.to_ndarray(format="rgb24") for _, frame in kept])
        return Picked([time for time, _ in kept], resize(frames))

    return decode


DECODERS: Final[dict[str, tuple[Callable[..., Decoder], Sequence[Any]]]] = {
    "gare": (ours, ()),
    "decord, threads auto": (decord, (0,)),
    "decord, 1 thread": (decord, (1,)),
    "torchcodec, exact": (torchcodec, ("exact",)),
    "torchcodec, approximate": (torchcodec, ("approximate",)),
    "PyAV, sequential": (sequential, ()),
}
"""Name -> function that makes the decoder; ``gare`` is this project, the last one is the reference for frames."""
OURS: Final = "gare"
REFERENCE: Final = "PyAV, sequential"
NEEDS: Final = {
    "decord": "pip install 'gare-ray[bench]'; it has wheels for x86-64 only",
    "torchcodec": "pip install 'gare-ray[bench]'; it loads FFmpeg 4 to 8 from the system: apt-get install ffmpeg",
}
"""Installation of each peer."""


def load(name: str, resize: str) -> Decoder:
    """Import and make a decoder, with one of ``RESIZES``; import errors are raised unchanged."""
    make, arguments = DECODERS[name]
    return make(RESIZES[resize]() if name != OURS else None, *arguments)


def pick(times_s: NDArray[np.float64]) -> list[int]:
    """Return the numbers of the frames to keep."""
    return sampling.sample(
        times_s, policy=RECIPE.policy, max_frames=RECIPE.max_frames, candidate_fps=RECIPE.candidate_fps
    )


def torch_resize() -> Resize:
    """Make a peer's resize and crop: [n, H, W, 3] uint8, array or tensor, to [n, 224, 224, 3]."""
    import torch

    torch.set_num_threads(1)

    def resize(frames: Any) -> NDArray[np.uint8]:
        images = torch.as_tensor(frames).permute(0, 3, 1, 2)  # channels last in memory: the fast path
        (height, width), (top, left) = resized(*images.shape[2:])
        made = torch.nn.functional.interpolate(images, (height, width), mode="bicubic", antialias=True)
        square: NDArray[np.uint8] = made[:, :, top : top + SIDE, left : left + SIDE].permute(0, 2, 3, 1).numpy()
        return np.ascontiguousarray(square)

    return resize


def pil_resize() -> Resize:
    """Do the same with PIL, frame by frame."""
    from PIL import Image

    def resize(frames: Any) -> NDArray[np.uint8]:
        (height, width), (top, left) = resized(*frames.shape[1:3])
        images = (Image.fromarray(np.asarray(frame)) for frame in frames)
        made = (image.resize((width, height), Image.Resampling.BICUBIC) for image in images)
        return np.stack([np.asarray(image.crop((left, top, left + SIDE, top + SIDE))) for image in made])

    return resize


def resized(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size after resizing the shorter side to 224 (the other truncated), and top and left of the square."""
    shorter = min(height, width)
    new_height, new_width = (max(SIDE, side * SIDE // shorter) for side in (height, width))
    return (new_height, new_width), (round((new_height - SIDE) / 2), round((new_width - SIDE) / 2))


RESIZES: Final[dict[str, Callable[[], Resize]]] = {"torch": torch_resize, "pil": pil_resize}
