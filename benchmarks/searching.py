"""Measure search in a large index: the first stage and FAISS, records read by threads and a memory map, a whole query.

    python benchmarks/searching.py [--videos 1000000 --records 100000 --folder DIR]

Codes and records are synthetic: vectors in clusters whose spread falls off like that of distilled scores. The first
stage scans int8 codes; the peer is FAISS's IVF1024,SQ8 by inner product, probing as many lists as its recall needs.
Recall is that of the exact ten best among 200 candidates. "Cold" drops the file from the page cache first. The text
tower is a ViT-B/32's with random weights. Times are p50 and p99 in ms; ratios are of the p50.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common.process import PeakMemory

from gare.config import ModelConfig
from gare.retrieval.records import RecordFile, RecordFormat, read_pool, record_factors, write_records
from gare.retrieval.stage import RANK, Codes
from gare.scoring.factors import ScoreStats, Texts, Videos
from gare.scoring.increment.head import GareHead

TOP, CANDIDATES = 10, 200
FRAMES, DIM = 12, 512
ENOUGH = 0.99


def timed(work: Callable[[], object], times: int, before: Callable[[], object] = lambda: None) -> tuple[float, float]:
    """Return median and 99th percentile in ms; ``before`` is not timed."""
    found = []
    for _ in range(times):
        before()
        start = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found), float(np.percentile(found, 99))


def say(what: str, times: tuple[float, float], more: str = "") -> None:
    """Print a row."""
    print(f"{what:46} {times[0]:9.2f} {times[1]:9.2f}  {more}", flush=True)


def made_vectors(count: int, seed: int) -> torch.Tensor:
    """Make vectors [count, RANK] in 2,000 clusters."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(2000, RANK, generator=torch.Generator().manual_seed(0))
    found = centres[torch.randint(0, 2000, (count,), generator=random)]
    return found + 0.7 * torch.randn(count, RANK, generator=random)


def recall(exact: torch.Tensor, found: torch.Tensor) -> float:
    """Return the share of the exact rows [B, TOP] among the found [B, K]."""
    return float((exact[:, :, None] == found[:, None]).any(-1).double().mean())


def first_stage(videos: int, times: int) -> float:
    """Measure the scan and its peer; return the p50 of one query."""
    vectors, queries = made_vectors(videos, 1), made_vectors(32, 2)
    start = time.perf_counter()
    scale = vectors.abs().amax(1) / 127
    codes = Codes((vectors / scale[:, None]).round().to(torch.int8), scale)
    built = time.perf_counter() - start
    exact = (queries @ vectors.T).topk(TOP).indices

    def scan(count: int) -> torch.Tensor:
        return codes.scores(queries[:count]).topk(CANDIDATES).indices

    held = recall(exact, scan(32))
    one = timed(lambda: scan(1), times)
    say("first stage, one query", one, f"recall {100 * held:.2f} %, {codes.codes.nbytes / 1e6:.0f} MB, {built:.1f} s")
    say("first stage, 32 at once", timed(lambda: scan(32), max(3, times // 10)))
    peer(vectors, queries, exact, one[0], times)
    return one[0]


def peer(vectors: torch.Tensor, queries: torch.Tensor, exact: torch.Tensor, ours: float, times: int) -> None:
    """Measure FAISS on the same vectors."""
    try:
        import faiss
    except ImportError:
        print("FAISS is not installed (the extra bench has it), so the first stage has no peer here.")
        return
    start = time.perf_counter()
    index = faiss.index_factory(RANK, "IVF1024,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // 100_000)].numpy())
    index.add(vectors.numpy())
    built = time.perf_counter() - start
    for probes in (4, 8, 16, 32, 64, 128, 1024):
        index.nprobe = probes
        held = recall(exact, torch.from_numpy(index.search(queries.numpy(), CANDIDATES)[1]))
        if held >= ENOUGH:
            break
    one = timed(lambda: index.search(queries[:1].numpy(), CANDIDATES), times)
    say(f"FAISS IVF1024,SQ8, {probes} lists, one query", one, f"recall {100 * held:.2f} %, {built:.1f} s")
    say("FAISS, 32 at once", timed(lambda: index.search(queries.numpy(), CANDIDATES), max(3, times // 10)))
    print(f"first stage / FAISS: {ours / one[0]:.1f}")


def records(folder: Path, count: int, times: int) -> float:
    """Measure reading and scoring candidates; return the p50 of reading and scoring 200 warm ones."""
    torch.manual_seed(0)
    factors = record_factors(GareHead(DIM, ModelConfig()))
    frames = torch.randn(1000, FRAMES, DIM) * 0.4 + 0.3 * torch.randn(1000, 1, DIM)
    gallery = factors.build(Videos(frames, torch.ones(1000, FRAMES, dtype=torch.bool)), torch.float16)
    form, path = RecordFormat.of(gallery), folder / "made.records"
    packed = form.pack(gallery)
    with path.open("wb") as stream:
        for _ in range(count // 1000):
            write_records(stream, packed)
        os.fsync(stream.fileno())
    count = count // 1000 * 1000
    random, text = np.random.default_rng(0), Texts(torch.randn(1, DIM) * 0.45)
    with read_pool() as pool:
        opened = RecordFile(path, form.dtype, count)
        mapped = np.memmap(path, form.dtype, "r")

        def dropped() -> None:
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)

        def rows(number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return random.choice(count, number, replace=False)

        cold = timed(lambda: opened.read(rows(1000), pool), 5, dropped)
        say("1,000 cold records by threads", cold, f"{form.dtype.itemsize:,} bytes each")
        gathered = timed(lambda: np.array(mapped[rows(1000)]), 5, dropped)
        say("1,000 cold records by a memory map", gathered)
        print(f"memory map / threads: {gathered[0] / cold[0]:.1f}")

        def answered() -> torch.Tensor:
            read = form.tensors(opened.read(rows(CANDIDATES), pool))
            return factors.score(factors.read(read), text, ScoreStats())

        warm = timed(answered, times)
        say(f"{CANDIDATES} warm records read and scored", warm)
    return warm[0]


def text_tower(times: int) -> float:
    """Run one query through the text tower of a ViT-B/32; return its p50."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    model = CLIPTextModelWithProjection(CLIPTextConfig(projection_dim=DIM)).eval()
    tokens = torch.randint(1, 40_000, (1, 32))
    with torch.no_grad():
        found = timed(lambda: model(tokens), times)
    say("text tower, one query", found)
    return found[0]


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000, help="codes of the first stage")
    parser.add_argument("--records", type=int, default=100_000, help="records on disk, 14.5 kB each")
    parser.add_argument("--folder", type=Path, help="where the records go; a temporary folder by default")
    parser.add_argument("--times", type=int, default=50, help="how often a query is timed")
    options = parser.parse_args()
    memory = PeakMemory()
    print(f"{'ms':46} {'p50':>9} {'p99':>9}")
    stage = first_stage(options.videos, options.times)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        exact = records(Path(folder), max(1000, options.records), options.times)
    tower = text_tower(options.times)
    print(f"whole warm query / text tower alone: {(stage + exact + tower) / tower:.2f}")
    print(f"peak memory: {memory.whole():.0f} MB")


if __name__ == "__main__":
    main()
