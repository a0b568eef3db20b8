"""Compare time and memory of a whole evaluation with a plain score matrix, each in a fresh process.

    python benchmarks/ranking.py [--texts 10000 --videos 10000 --captions 1 --dim 64] [--full]

The evaluation is that of ``gare evaluate`` over existing embeddings: raw rankings, dual softmax, QB-Norm with a bank of
1,000, and the first answers of every query. The plain way makes the matrix of cosines and compares it with the own
scores, once for each direction, and nothing else. Peak memory is that of the whole process, interpreter and embeddings
included. Ranks may differ where two products round differently: both are float32. ``--full`` evaluates 100,000 x
100,000, whose matrix would take 40 GB, without the plain way.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gare.data.shards import VideoInfo
from gare.evaluation.measure import measure
from gare.evaluation.postprocess import draw_bank

FULL = 100_000
BANK = 1000


@dataclass
class Embedded:
    """A split whose captions are numbers of embeddings."""

    name: str
    videos: list[VideoInfo]
    folder: Path = Path("made-up")

    def __len__(self) -> int:
        return len(self.videos)


class Embeddings:
    """A scorer by the cosine of embeddings of width D; splits of other names have other embeddings."""

    scale = 100.0

    def __init__(self, texts: int, videos: int, captions: int, dim: int) -> None:
        random = np.random.default_rng(0)
        self.owner = np.minimum(np.arange(texts) // captions, videos - 1)
        video = random.standard_normal((videos, dim), np.float32)
        text = video[self.owner] + 3 * random.standard_normal((texts, dim), np.float32)
        self.texts, self.videos = _unit(text), _unit(video)
        self.others = _unit(random.standard_normal((BANK, dim), np.float32))

    def split(self) -> Embedded:
        """Return the split to evaluate."""
        captions: list[list[str]] = [[] for _ in range(len(self.videos))]
        for number, video in enumerate(self.owner.tolist()):
            captions[video].append(str(number))
        return Embedded("test", [VideoInfo(f"v{n}", f"v{n}", own, {}) for n, own in enumerate(captions)])

    def bank(self) -> Embedded:
        """Return the split that the query bank is drawn from."""
        return Embedded("train", [VideoInfo(f"b{n}", f"b{n}", [f"b{n}"], {}) for n in range(BANK)])

    def encode_texts(self, texts: Any) -> Tensor:
        """Return embeddings of captions [N, D]."""
        if str(texts[0]).startswith("b"):
            return torch.from_numpy(self.others)
        return torch.from_numpy(self.texts)

    def encode_videos(self, split: Any, _: Any) -> Tensor:
        """Return embeddings of videos [V, D]."""
        return torch.from_numpy(self.others if split.name == "train" else self.videos)

    def score(self, texts: Tensor, videos: Tensor) -> Tensor:
        """Return cosines [N, V]."""
        return texts @ videos.T


def plain(case: Embeddings) -> dict[str, NDArray[Any]]:
    """Return the ranks of both directions by whole matrices, ties pessimistic."""
    owner, scores = case.owner, case.texts @ case.videos.T
    own = scores[np.arange(len(scores)), owner]
    captioned, first = np.unique(owner, return_index=True)
    best = np.full(scores.shape[1], np.inf, np.float32)
    best[captioned] = np.maximum.reduceat(own, first)
    level = np.add.reduceat(own == best[owner], first, dtype=np.int64)
    before = (scores >= best).sum(axis=0)[captioned]
    return {"t2v": (scores >= own[:, None]).sum(axis=1), "v2t": 1 + before - level}


def evaluated(case: Embeddings) -> dict[str, NDArray[Any]]:
    """Return the ranks of all rankings of an evaluation."""
    split: Any = case.split()
    train: Any = case.bank()
    found = measure(case, split, bank=draw_bank(train, split, BANK, 0), resamples=0)
    return {name: answers.ranking.ranks for name, answers in found.answers.items()}


def one_way(options: argparse.Namespace) -> None:
    """Rank one way in this fresh process: write the ranks, print seconds, processor seconds and peak in MB."""
    case = Embeddings(options.texts, options.videos, options.captions, options.dim)
    start, processor = time.perf_counter(), time.process_time()
    found = plain(case) if options.way == "plain" else evaluated(case)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    np.savez(options.ranks, **found)  # type: ignore[arg-type]
    print(seconds, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def run(options: argparse.Namespace, way: str, ranks: Path) -> None:
    """Print seconds, processor seconds and peak MB of one way."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("texts", "videos", "captions", "dim")]
    command = [sys.executable, __file__, *sizes, "--way", way, "--ranks", str(ranks)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, processor, peak = map(float, done.stdout.split())
    pairs = options.texts * options.videos
    used = f"{processor:.1f} s of processor time, {1e9 * processor / pairs:.1f} ns a pair"
    print(f"  {way:8}: {seconds:7.1f} s, {used}, peak {peak:.0f} MB", flush=True)


def main() -> None:
    """Print time, memory and agreement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("texts", 10_000), ("videos", 10_000), ("captions", 1), ("dim", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--full", action="store_true", help=f"{FULL} x {FULL}, without the plain way")
    parser.add_argument("--way", choices=["plain", "evaluate"], help=argparse.SUPPRESS)
    parser.add_argument("--ranks", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        one_way(options)
        return
    if options.full:
        options.texts = options.videos = FULL
    print(
        f"numpy {np.__version__}, float32: {options.texts} texts x {options.videos} videos, {options.captions} to a "
        f"video, D {options.dim}; the matrix would take {options.texts * options.videos * 4 / 2**20:.0f} MB"
    )
    with tempfile.TemporaryDirectory() as folder:
        tiles, whole = Path(folder) / "tiles.npz", Path(folder) / "plain.npz"
        run(options, "evaluate", tiles)
        if options.full:
            return
        run(options, "plain", whole)
        with np.load(tiles) as a, np.load(whole) as b:
            for name in b.files:
                apart = np.abs(a[name] - b[name])
                print(f"  {name}: {(apart > 0).sum()} of {len(apart)} ranks differ, by {apart.max()} at most")


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1, [N, D]."""
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
