"""Ranks of plain embeddings in tiles against the plain way over a whole score matrix, each in a fresh process.

    python benchmarks/ranking.py [--texts 10000 --videos 10000 --captions 1 --dim 128] [--full]

The plain way makes the matrix of cosines with one product, then compares it with the own scores, once for each
direction; every text has its own video or shares it with ``captions`` - 1 others. Peak memory is that of the whole
process, interpreter and embeddings included. Ranks may differ where the two products round differently: both are
float32. ``--full`` ranks 100,000 x 100,000 in tiles alone, since that matrix would take 40 GB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gare.retrieval.metrics.tiles import embedding_rankings

FULL = 100_000


def embeddings(texts: int, videos: int, captions: int, dim: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Texts [N, D] near to their videos [V, D], and their owners."""
    random = np.random.default_rng(0)
    owner = np.minimum(np.arange(texts) // captions, videos - 1)
    video = random.standard_normal((videos, dim), np.float32)
    return video[owner] + 3 * random.standard_normal((texts, dim), np.float32), video, owner


def plain(texts: NDArray[Any], videos: NDArray[Any], owner: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Ranks of both directions by whole matrices, ties pessimistic."""
    texts, videos = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (texts, videos))
    scores = texts @ videos.T
    own = scores[np.arange(len(scores)), owner]
    captioned, first = np.unique(owner, return_index=True)
    best = np.full(len(videos), np.inf, np.float32)
    best[captioned] = np.maximum.reduceat(own, first)
    level = np.add.reduceat(own == best[owner], first, dtype=np.int64)
    before = (scores >= best).sum(axis=0)[captioned]
    return {"t2v": (scores >= own[:, None]).sum(axis=1), "v2t": 1 + before - level}


def measure(options: argparse.Namespace) -> None:
    """In the fresh process: rank one way, write the ranks, print seconds and the peak in MB."""
    case = embeddings(options.texts, options.videos, options.captions, options.dim)
    start = time.perf_counter()
    if options.way == "plain":
        found = plain(*case)
    else:
        found = {name: ranking.ranks for name, ranking in embedding_rankings(*case).items()}
    seconds = time.perf_counter() - start
    np.savez(options.ranks, **found)  # type: ignore[arg-type]
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def run(options: argparse.Namespace, way: str, ranks: Path) -> tuple[float, float]:
    """Seconds and peak MB of one way."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("texts", "videos", "captions", "dim")]
    command = [sys.executable, __file__, *sizes, "--way", way, "--ranks", str(ranks)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = map(float, done.stdout.split())
    pairs = options.texts * options.videos
    print(f"  {way:5}: {seconds:6.2f} s, {1e9 * seconds / pairs:.2f} ns a pair, peak {peak:.0f} MB")
    return seconds, peak


def main() -> None:
    """Print time, memory and agreement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("texts", 10_000), ("videos", 10_000), ("captions", 1), ("dim", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, one way after the other in each")
    parser.add_argument("--full", action="store_true", help=f"{FULL} x {FULL} in tiles alone")
    parser.add_argument("--way", choices=["plain", "tiles"], help=argparse.SUPPRESS)
    parser.add_argument("--ranks", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(options)
        return
    if options.full:
        options.texts = options.videos = FULL
    print(
        f"numpy {np.__version__}, float32: {options.texts} texts x {options.videos} videos, {options.captions} to a "
        f"video, D {options.dim}; the matrix would take {options.texts * options.videos * 4 / 2**20:.0f} MB"
    )
    with tempfile.TemporaryDirectory() as folder:
        tiles, whole = Path(folder) / "tiles.npz", Path(folder) / "plain.npz"
        if options.full:
            run(options, "tiles", tiles)
            return
        ratios = []
        for _ in range(options.rounds):
            (slow, high), (fast, low) = run(options, "plain", whole), run(options, "tiles", tiles)
            ratios.append((slow / fast, high / low))
        time_ratio, peak_ratio = np.median(ratios, axis=0)
        print(f"  plain / tiles: time {time_ratio:.2f} x, peak memory {peak_ratio:.1f} x")
        with np.load(tiles) as a, np.load(whole) as b:
            for name in b.files:
                apart = np.abs(a[name] - b[name])
                print(f"  {name}: {(apart > 0).sum()} of {len(apart)} ranks differ, by {apart.max()} at most")


if __name__ == "__main__":
    main()
