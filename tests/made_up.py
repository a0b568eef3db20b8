"""A split and a scorer without files or models, for what is computed from scores alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gare.data.shards import VideoInfo


class MadeUpSplit:
    """The face of ``gare.data.shards.Split`` over given videos, each of ``frames`` frames of noise."""

    def __init__(self, videos, *, name="test", frames=3, side=32):
        self.folder, self.name = Path("made-up"), name
        self.videos = [VideoInfo(*v) if isinstance(v, tuple) else v for v in videos]
        counts = frames if isinstance(frames, list) else [frames] * len(self.videos)
        random = np.random.default_rng(0)
        self._clips = [random.integers(0, 256, (count, side, side, 3), np.uint8) for count in counts]

    def __len__(self):
        return len(self.videos)

    def frames(self, index, at_most):
        return self._clips[index][:at_most]

    def timestamps(self, index):
        return [float(t) for t in range(len(self._clips[index]))]


def split_of(captions, attributes=None, **settings):
    """A split with the captions of each video, its ids v0, v1, ..."""
    given = attributes or [{}] * len(captions)
    videos = [(f"v{n}", f"/videos/v{n}.mp4", list(c), a) for n, (c, a) in enumerate(zip(captions, given, strict=True))]
    return MadeUpSplit(videos, **settings)


@dataclass(frozen=True)
class HashScorer:
    """Cosines of vectors drawn by a hash of what is encoded, rounded so that some are equal."""

    scale: float = 10.0
    digits: int = 2

    def encode_texts(self, texts):
        return torch.stack([self._vector(text) for text in texts])

    def encode_videos(self, split, videos):
        return torch.stack([self._vector(f"{split.name}/{split.videos[v].video_id}") for v in videos])

    def score(self, texts, videos):
        return (texts @ videos.T).round(decimals=self.digits)

    def _vector(self, text):
        seed = torch.Generator().manual_seed(zlib.crc32(text.encode("utf-8", "surrogatepass")))
        return torch.nn.functional.normalize(torch.randn(8, generator=seed), dim=0)


@dataclass(frozen=True)
class TableScorer:
    """Given scores [N, V] of all texts against all videos."""

    table: list
    scale: float = 10.0

    def encode_texts(self, texts):
        return texts

    def encode_videos(self, _, videos):
        return videos

    def score(self, *_):
        return torch.tensor(self.table, dtype=torch.float32)
