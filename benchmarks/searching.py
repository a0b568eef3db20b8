"""Measure search in a large index: the first stage and FAISS, records read by threads and a memory map, a whole query.

    python benchmarks/searching.py [--videos 1000000 --folder DIR]

The index has four segments, and its model ViT-B/32's text tower with random weights. Codes are synthetic: sums of
properties that videos share, as those of real clips are. So is the record of a video (12 frames of 512 numbers),
which repeats every 1,000; the segments share one file of records, a quarter of what so many videos take. The first
stage reads as many lists as it needs for 99 % of the exact ten best among 200 candidates, and so does its peer,
FAISS's IVF1024,SQ8 by inner product. "Cold" drops the file from the page cache first. A whole query is one of
``SearchIndex.search``, from a sentence to ten hits; the text tower alone encodes the same sentences. Times are p50
and p99 in ms; ratios are of the p50.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from common.process import PeakMemory
from common.random_clip import random_clip
from transformers import CLIPConfig

from gare.config import Config, ModelConfig
from gare.evaluation.encode import encode_texts
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.retrieval.anchors import Anchors
from gare.retrieval.codes import Codes, SegmentCodes, save_lists
from gare.retrieval.fitting import lists_of
from gare.retrieval.folder import VIDEOS, IndexRecord, SegmentFiles
from gare.retrieval.index import SearchIndex
from gare.retrieval.model import IndexModel
from gare.retrieval.recall import CANDIDATES, Recall
from gare.retrieval.records import RecordFormat, record_factors, write_records
from gare.retrieval.segment_writer import write_videos
from gare.retrieval.stage import RANK, SAMPLE, Basis, save_basis
from gare.scoring.factors import Videos

TOP, COUNT, ENOUGH = 10, 200, 0.99
SEGMENTS, REPEATED = 4, 1000
QUERIES = 64
PROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


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
    """Make vectors [count, RANK]: sums of a value of each of 8 properties, and noise, of different lengths."""
    random, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    found = 0.4 * torch.randn(count, RANK, generator=random)
    for place in range(8):
        values = 0.85**place * torch.randn(16, RANK, generator=fixed)
        found += values[torch.randint(0, 16, (count,), generator=random)]
    return found * (0.7 + 0.6 * torch.rand(count, 1, generator=random))


def as_codes(vectors: torch.Tensor) -> Codes:
    """Round vectors to int8."""
    scale = vectors.abs().amax(1) / 127
    return Codes((vectors / scale[:, None]).round().to(torch.int8), scale)


def made_model() -> IndexModel:
    """Make a model with ViT-B/32's towers and a head of the paper, all with random weights."""
    torch.manual_seed(0)
    words = Tokenizer.train([f"a person number {n} rides a horse at the beach" for n in range(50)], 600)
    model = GareModel(random_clip(CLIPConfig(projection_dim=512)), ModelConfig(temporal_layers=0), words).eval()
    return IndexModel(model, words, Config(), "made", "0")


def made_index(folder: Path, model: IndexModel, videos: int) -> SearchIndex:
    """Write an index with synthetic codes and records, and open it."""
    record = IndexRecord(
        version=4, generation=1, checkpoint="made", weights_sha256="0", dataset_digest="0", split="made",
        storage="float16", format=made_records(folder, model, videos // SEGMENTS), segments=[], digests={},
        basis="g1.basis", lists="g1.lists",
        recall=Recall(videos, [*CANDIDATES], [1.0] * len(CANDIDATES), [1.0] * len(CANDIDATES), 1e30),
    )  # fmt: skip
    save_basis(folder / "g1.basis", made_basis(model.model.dim), Anchors(["a"] * 2048, ["b"], ["c"]))
    start = time.perf_counter()
    parts = [as_codes(made_vectors(videos // SEGMENTS, seed + 1)) for seed in range(SEGMENTS)]
    rounded = time.perf_counter()
    lists = lists_of(parts, videos)
    save_lists(folder / "g1.lists", lists)
    for number, codes in enumerate(parts, start=1):
        files = SegmentFiles(videos=len(codes), records=f"{number}-g1.records", about=f"{number}-g1.arrow")
        files.codes = f"{number}-g1.codes"
        SegmentCodes.of(codes, lists).save(folder / files.codes)
        if number > 1:
            (folder / files.records).hardlink_to(folder / "1-g1.records")
        ids = [f"{number}-{n}" for n in range(len(codes))]
        table = {"video_id": ids, "uri": [f"/videos/{name}.mp4" for name in ids], "attributes": [[]] * len(ids)}
        write_videos(folder / files.about, pa.table(table, VIDEOS))
        record.segments.append(files)
    built = time.perf_counter() - rounded
    print(
        f"{len(lists)} lists of {videos:,} videos found and written in {built:.0f} s (codes: {rounded - start:.0f} s)"
    )
    return SearchIndex.of(folder, record, model)


def made_records(folder: Path, model: IndexModel, count: int) -> dict[str, tuple[str, list[int]]]:
    """Write the records of the first segment and return their format."""
    factors, torch_random = record_factors(model.model.head), torch.Generator().manual_seed(0)
    frames = torch.randn(REPEATED, 12, 512, generator=torch_random) * 0.4
    frames += 0.3 * torch.randn(REPEATED, 1, 512, generator=torch_random)
    with torch.no_grad():
        gallery = factors.build(Videos(frames, torch.ones(REPEATED, 12, dtype=torch.bool)), torch.float16)
    form = RecordFormat.of(gallery)
    packed = form.pack(gallery)
    with (folder / "1-g1.records").open("wb") as stream:
        for start in range(0, count, REPEATED):
            write_records(stream, packed[: count - start])
        os.fsync(stream.fileno())
    return form.fields


def made_basis(dim: int) -> Basis:
    """Fit a basis to random texts and scores: it costs a query as much as any other."""
    random = torch.Generator().manual_seed(0)
    return Basis.of(torch.randn(2048, dim, generator=random), torch.randn(SAMPLE, 2048, generator=random))


def recall(exact: torch.Tensor, found: torch.Tensor) -> float:
    """Return the share of the exact rows [B, TOP] among the found [B, K]."""
    return float((exact[:, :, None] == found[:, None]).any(-1).double().mean())


def first_stage(index: SearchIndex, vectors: torch.Tensor, times: int) -> None:
    """Measure the stage and its peer on the same vectors."""
    queries = made_vectors(QUERIES, 99)
    exact = torch.cat([(queries[rows] @ vectors.T).topk(TOP).indices for rows in torch.arange(QUERIES).split(8)])
    allowed, size = [segment.alive for segment in index.segments], len(index.segments[0])

    def read(query: torch.Tensor, probes: int | None) -> torch.Tensor:
        rows = index.best(query, allowed, COUNT, probes)
        return torch.cat([torch.from_numpy(part) + size * number for number, part in enumerate(rows)])

    def held(probes: int | None) -> float:
        return recall(exact, torch.stack([read(query, probes) for query in queries]))

    some = itertools.cycle(queries)
    whole = held(None)
    probes = next(n for n in PROBES if held(n) >= ENOUGH)
    assert index.record.recall is not None
    object.__setattr__(index.record.recall, "probes", probes)
    one = timed(lambda: read(next(some), probes), times)
    say(f"first stage, {probes} lists, one query", one, f"recall {100 * held(probes):.2f} %")
    every = timed(lambda: [read(query, probes) for query in queries[:32]], max(3, times // 10))
    say("first stage, 32 one after the other", every)
    say(
        "first stage, all lists, one query", timed(lambda: read(next(some), None), times), f"recall {100 * whole:.2f} %"
    )
    peer(vectors, queries, exact, (one[0], every[0]), times)


def peer(
    vectors: torch.Tensor, queries: torch.Tensor, exact: torch.Tensor, ours: tuple[float, float], times: int
) -> None:
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
    built, held = time.perf_counter() - start, 0.0
    for probes in PROBES:
        index.nprobe = probes
        held = recall(exact, torch.from_numpy(index.search(queries.numpy(), COUNT)[1]))
        if held >= ENOUGH:
            break
    some = itertools.cycle(queries.split(1))
    one = timed(lambda: index.search(next(some).numpy(), COUNT), times)
    say(f"FAISS IVF1024,SQ8, {index.nprobe} lists, one query", one, f"recall {100 * held:.2f} %, {built:.1f} s")
    every = timed(lambda: index.search(queries[:32].numpy(), COUNT), max(3, times // 10))
    say("FAISS, 32 at once", every)
    print(f"first stage / FAISS: {ours[0] / one[0]:.1f} for one query, {ours[1] / every[0]:.1f} for 32")


def cold_records(index: SearchIndex) -> None:
    """Measure the reading of 1,000 records that are not in the page cache."""
    records, random = index.segments[0].records, np.random.default_rng(0)
    mapped = np.memmap(records.path, records.dtype, "r")

    def dropped() -> None:
        handle = os.open(records.path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)

    def rows() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return random.choice(len(records), 1000, replace=False)

    cold = timed(lambda: records.read(rows(), index.threads), 7, dropped)
    say("1,000 cold records by threads", cold, f"{records.dtype.itemsize:,} bytes each")
    gathered = timed(lambda: np.array(mapped[rows()]), 7, dropped)
    say("1,000 cold records by a memory map", gathered)
    print(f"memory map / threads: {gathered[0] / cold[0]:.1f}")


def whole_query(index: SearchIndex, times: int) -> None:
    """Measure a query from a sentence to hits, next to the text tower alone."""
    model = index.model
    sentences = itertools.cycle([f"a person number {n} rides a horse at the beach" for n in range(50)])

    def encoded() -> object:
        return encode_texts(model.model, model.tokenizer, [next(sentences)], model.config.data.words, 1)

    for _ in range(20):
        index.search(next(sentences), TOP)
    tower = timed(encoded, times)
    say("text tower, one query", tower)
    whole = timed(lambda: index.search(next(sentences), TOP), times)
    say("whole warm query", whole, str(index.search(next(sentences), TOP).searched))
    print(f"whole warm query / text tower alone: {whole[0] / tower[0]:.2f}")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000, help="videos of the index, 3.6 kB of disk each")
    parser.add_argument("--folder", type=Path, help="where the index goes; a temporary folder by default")
    parser.add_argument("--times", type=int, default=100, help="how often a query is timed")
    options = parser.parse_args()
    memory = PeakMemory()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        index = made_index(Path(folder), made_model(), options.videos // SEGMENTS * SEGMENTS)
        print(f"memory of an open index with its model: {memory.whole():.0f} MB at most while it was made")
        print(f"{'ms':46} {'p50':>9} {'p99':>9}")
        cold_records(index)
        vectors = torch.cat([made_vectors(options.videos // SEGMENTS, seed + 1) for seed in range(SEGMENTS)])
        first_stage(index, vectors, options.times)
        del vectors
        whole_query(index, options.times)
    print(f"peak memory: {memory.whole():.0f} MB")


if __name__ == "__main__":
    main()
