"""Exact factorised scoring against a dense transcription of the published computation, in one run.

    python benchmarks/scoring.py [--texts 1000 --videos 1000 --frames 12 --words 32 --dim 512]

The dense peer is written as published: texts in blocks of 16 against all videos, the query, output, feed-forward and
increment layers applied to every pair; keys and values once per context. It is timed on evenly spread blocks of
texts and scaled to all of them. "4 products" runs the four D x D layers a score depends on; "5 products" also the
layer the released code evaluates per pair and drops (``log_std_proj``). Random weights and inputs; the difference of
the scores is printed beside every ratio.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gare.config import ModelConfig
from gare.model import PairHead
from gare.retrieval import ScoreStats, VideoIndex

BLOCK = 16


@dataclass(frozen=True)
class Case:
    """text [B, D], frames [V, F, D], frame_mask, words [B, W, D], word_mask."""

    text: Tensor
    frames: Tensor
    frame_mask: Tensor
    words: Tensor
    word_mask: Tensor


class Published(nn.Module):
    """The released computation of all scores of a block of texts; the corrected side is the text."""

    def __init__(self, head: PairHead, *, dropped_layer: bool) -> None:
        super().__init__()
        assert head.psi is not None
        self.psi, self.config = head.psi, head.config
        self.log_std_proj = nn.Linear(head.psi.q_proj.in_features, head.psi.q_proj.in_features)
        self.dropped_layer = dropped_layer

    def forward(self, text: Tensor, frames: Tensor, words: Tensor) -> Tensor:
        """Cosines [b, V]; every frame and word valid."""
        weights = torch.einsum("bd,vfd->bvf", text, frames).div(self.config.pool_temperature).softmax(dim=-1)
        pooled = torch.einsum("bvf,vfd->bvd", weights, frames)
        delta = self.increment(frames.mean(dim=1)[None] - text[:, None], frames if self.frames else words)
        corrected = F.normalize(text[:, None] + delta, dim=-1)
        return (corrected * F.normalize(pooled, dim=-1)).sum(dim=-1)

    @property
    def frames(self) -> bool:
        """Whether the context is the video's frames."""
        return self.config.context == "frames"

    def increment(self, query: Tensor, context: Tensor) -> Tensor:
        """Increments [b, V, D] of queries [b, V, D] on contexts [V, L, D] or [b, L, D]."""
        psi, owner = self.psi, "v" if self.frames else "b"
        normed = psi.layer_norm1(context)
        projected = psi.q_proj(psi.layer_norm1(query))
        logits = torch.einsum(f"bvd,{owner}ld->bvl", projected, psi.k_proj(normed)) / math.sqrt(query.shape[-1])
        attended = torch.einsum(f"bvl,{owner}ld->bvd", logits.softmax(dim=-1), psi.v_proj(normed))
        y = psi.layer_norm2(psi.out_proj(attended))
        u = psi.layer_norm3(y + psi.linear1(y))
        if self.dropped_layer:
            self.log_std_proj(u)
        increments: Tensor = psi.mean_proj(u)
        return increments


def make_case(texts: int, videos: int, frames: int, words: int, dim: int) -> Case:
    """Random vectors, every position valid."""
    torch.manual_seed(0)
    return Case(
        torch.randn(texts, dim),
        torch.randn(videos, frames, dim),
        torch.ones(videos, frames, dtype=torch.bool),
        torch.randn(texts, words, dim),
        torch.ones(texts, words, dtype=torch.bool),
    )


def make_model(dim: int, context: str) -> SimpleNamespace:
    """A model that is only a pair head, with untrained weights."""
    torch.manual_seed(1)
    return SimpleNamespace(head=PairHead(dim, ModelConfig(context=context)))  # type: ignore[arg-type]


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall time after one run to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.no_grad()
def dense(case: Case, model: SimpleNamespace, blocks: int, *, dropped_layer: bool) -> tuple[float, list[slice], Tensor]:
    """Seconds for all texts, measured on ``blocks`` blocks (median, scaled), with those blocks and their scores."""
    peer = Published(model.head, dropped_layer=dropped_layer)
    count = math.ceil(len(case.text) / BLOCK)
    full = max(1, len(case.text) // BLOCK)
    picks = sorted({round(x) for x in torch.linspace(0, full - 1, min(blocks, full)).tolist()})
    rows = [slice(p * BLOCK, (p + 1) * BLOCK) for p in picks]
    peer(case.text[rows[0]], case.frames, case.words[rows[0]])
    times, scores = [], []
    for part in rows:
        start = time.perf_counter()
        scores.append(peer(case.text[part], case.frames, case.words[part]))
        times.append(time.perf_counter() - start)
    return statistics.median(times) * count, rows, torch.cat(scores)


def compare(case: Case, context: str, options: argparse.Namespace) -> None:
    """Print one context's table."""
    model = make_model(case.text.shape[1], context)
    index = VideoIndex.build(model, case.frames, case.frame_mask)
    stats = ScoreStats()
    scores = index.score(case.text, words=case.words, word_mask=case.word_mask, stats=stats)
    given = {"words": case.words, "word_mask": case.word_mask}
    slow, rows, expected = dense(case, model, options.blocks, dropped_layer=False)
    built = seconds(lambda: VideoIndex.build(model, case.frames, case.frame_mask), options.repeats)
    scored = seconds(lambda: index.score(case.text, **given), options.repeats)
    slower, _, _ = dense(case, model, options.blocks, dropped_layer=True)
    difference = (torch.cat([scores[part] for part in rows]) - expected).abs().max()
    print(f"\ncontext {context}: largest difference {difference:.1e}, pairs scored densely {stats.dense_pairs}")
    print(f"  factorised: build {built:.2f} s, score {scored:.2f} s")
    for name, peer in (("4 products", slow), ("5 products", slower)):
        print(
            f"  dense, {name}: {peer:6.1f} s   ratio after the build {peer / scored:5.1f} x, "
            f"with it {peer / (built + scored):5.1f} x"
        )


def peak(options: argparse.Namespace, context: str, texts: int) -> float:
    """MB by which scoring raises the resident memory of a fresh process at its peak, the scores themselves aside."""
    sizes = ["--videos", options.videos, "--frames", options.frames, "--words", options.words, "--dim", options.dim]
    command = [sys.executable, __file__, "--memory-of", context, "--texts", texts, *sizes]
    done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
    return float(done.stdout)


def print_peak(case: Case, context: str) -> None:
    """In the fresh process: score, then print the peak resident memory over what was resident before (Linux)."""
    index = VideoIndex.build(make_model(case.text.shape[1], context), case.frames, case.frame_mask)
    few = slice(0, BLOCK)  # loads what torch loads lazily
    index.score(case.text[few], words=case.words[few], word_mask=case.word_mask[few])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = resident("VmRSS")
    scores = index.score(case.text, words=case.words, word_mask=case.word_mask)
    print(resident("VmHWM") - before - scores.numel() * scores.element_size() / 2**20)


def resident(entry: str) -> float:
    """An entry of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1024


def main() -> None:
    """Print the ratios of both contexts, then the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("texts", 1000), ("videos", 1000), ("frames", 12), ("words", 32), ("dim", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--blocks", type=int, default=3, help="blocks of 16 texts the dense peer is timed on")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", choices=["frames", "words"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    case = make_case(options.texts, options.videos, options.frames, options.words, options.dim)
    if options.memory_of:
        print_peak(case, options.memory_of)
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32: {options.texts} texts x "
        f"{options.videos} videos, F {options.frames}, W {options.words}, D {options.dim}; dense peer timed on "
        f"{options.blocks} of {math.ceil(options.texts / BLOCK)} blocks of {BLOCK} texts and scaled"
    )
    for context in ("frames", "words"):
        compare(case, context, options)
    del case
    print("\nrise of the peak memory while scoring, the scores aside, in MB")
    for context in ("frames", "words"):
        rises = [f"{count} texts {peak(options, context, count):.0f}" for count in memory_counts(options.texts)]
        print(f"  context {context}: " + ", ".join(rises))


def memory_counts(texts: int) -> list[int]:
    """Half, once and twice the texts."""
    return [max(1, texts // 2), texts, 2 * texts]


if __name__ == "__main__":
    main()
