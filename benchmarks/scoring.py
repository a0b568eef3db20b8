"""Compare exact factorised scoring with a dense transcription of the published computation, in one run.

    python benchmarks/scoring.py [--texts 1000 --videos 1000 --frames 12 --words 32 --dim 512]

The dense peer is written as published: texts in blocks of 16 against all videos, the query, output, feed-forward and
increment layers applied to every pair; keys and values once per context. It is timed on evenly spread blocks of texts
and scaled to all of them. "4 products" runs the four D x D layers that a score depends on; "5 products" also the layer
that the released code evaluates per pair and discards (``log_std_proj``). Weights and inputs are random; the difference
of the scores is printed with every ratio.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from common.process import PeakMemory, own_process
from torch import Tensor, nn
from torch.nn import functional as F

from gare.config import ModelConfig
from gare.scoring.factors import ScoreStats
from gare.scoring.increment.head import GareHead
from gare.scoring.video_index import VideoIndex

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

    def __init__(self, head: GareHead, *, dropped_layer: bool) -> None:
        super().__init__()
        assert head.psi is not None
        self.psi, self.config = head.psi, head.config
        self.log_std_proj = nn.Linear(head.psi.q_proj.in_features, head.psi.q_proj.in_features)
        self.dropped_layer = dropped_layer

    def forward(self, text: Tensor, frames: Tensor, words: Tensor) -> Tensor:
        """Return cosines [b, V]; every frame and word is valid."""
        weights = torch.einsum("bd,vfd->bvf", text, frames).div(self.config.pool_temperature).softmax(dim=-1)
        pooled = torch.einsum("bvf,vfd->bvd", weights, frames)
        delta = self.increment(frames.mean(dim=1)[None] - text[:, None], frames if self.frames else words)
        corrected = F.normalize(text[:, None] + delta, dim=-1)
        return (corrected * F.normalize(pooled, dim=-1)).sum(dim=-1)

    @property
    def frames(self) -> bool:
        """Return True if the context is the video's frames."""
        return self.config.context == "frames"

    def increment(self, query: Tensor, context: Tensor) -> Tensor:
        """Return increments [b, V, D] of queries [b, V, D] on contexts [V, L, D] or [b, L, D]."""
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
    """Make random vectors, every position valid."""
    torch.manual_seed(0)
    return Case(
        torch.randn(texts, dim),
        torch.randn(videos, frames, dim),
        torch.ones(videos, frames, dtype=torch.bool),
        torch.randn(texts, words, dim),
        torch.ones(texts, words, dtype=torch.bool),
    )


def make_model(dim: int, context: str) -> SimpleNamespace:
    """Make a model that is only a pair head, with untrained weights."""
    torch.manual_seed(1)
    return SimpleNamespace(head=GareHead(dim, ModelConfig(context=context)))  # type: ignore[arg-type]


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.no_grad()
def compare(case: Case, context: str, options: argparse.Namespace) -> None:
    """Print one context's figures: medians over rounds in which all four are timed one after another."""
    model = make_model(case.text.shape[1], context)
    index, stats = VideoIndex.build(model, case.frames, case.frame_mask), ScoreStats()
    scores = index.score(case.text, words=case.words, word_mask=case.word_mask, stats=stats)
    four, five = (Published(model.head, dropped_layer=dropped) for dropped in (False, True))
    full = max(1, len(case.text) // BLOCK)
    count, difference = len(case.text) / min(BLOCK, len(case.text)), 0.0
    times: dict[str, list[float]] = {"build": [], "score": [], "4": [], "5": []}
    five(case.text[:BLOCK], case.frames, case.words[:BLOCK])
    for pick in torch.linspace(0, full - 1, options.rounds).round().int().tolist():
        rows = slice(pick * BLOCK, (pick + 1) * BLOCK)
        given = case.text[rows], case.frames, case.words[rows]
        times["build"].append(seconds(lambda: VideoIndex.build(model, case.frames, case.frame_mask)))
        times["score"].append(seconds(lambda: index.score(case.text, words=case.words, word_mask=case.word_mask)))
        times["4"].append(seconds(lambda g=given: four(*g)) * count)  # type: ignore[misc]
        times["5"].append(seconds(lambda g=given: five(*g)) * count)  # type: ignore[misc]
        difference = max(difference, float((four(*given) - scores[rows]).abs().max()))
    built, scored, slow, slower = (statistics.median(times[key]) for key in ("build", "score", "4", "5"))
    print(f"\ncontext {context}: largest difference {difference:.1e}, pairs scored densely {stats.dense_pairs}")
    print(f"  factorised: build {built:.2f} s, score {scored:.2f} s")
    for name, peer in (("4 products", slow), ("5 products", slower)):
        print(
            f"  dense, {name}: {peer:6.1f} s   ratio after the build {peer / scored:5.1f} x, "
            f"with it {peer / (built + scored):5.1f} x"
        )


def peak(options: argparse.Namespace, context: str, texts: int) -> float:
    """Return the peak MB of a fresh process while scoring, without the texts and the scores themselves."""
    sizes = ["--videos", options.videos, "--frames", options.frames, "--words", options.words, "--dim", options.dim]
    return float(own_process(__file__, "--memory-of", context, "--texts", texts, *sizes))


def print_peak(case: Case, context: str) -> None:
    """Build and score in this fresh process, and print the peak resident memory of the scoring."""
    index = VideoIndex.build(make_model(case.text.shape[1], context), case.frames, case.frame_mask)
    memory = PeakMemory()
    scores = index.score(case.text, words=case.words, word_mask=case.word_mask)
    given = sum(x.numel() * x.element_size() for x in (case.text, case.words, case.word_mask, scores))
    print(memory.whole() - given / 2**20)


def main() -> None:
    """Print the ratios of both contexts, then the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("texts", 1000), ("videos", 1000), ("frames", 12), ("words", 32), ("dim", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the dense peer is timed on a block in each")
    parser.add_argument("--memory-of", choices=["frames", "words"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    case = make_case(options.texts, options.videos, options.frames, options.words, options.dim)
    if options.memory_of:
        print_peak(case, options.memory_of)
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32: {options.texts} texts x "
        f"{options.videos} videos, F {options.frames}, W {options.words}, D {options.dim}; dense peer timed on "
        f"{options.rounds} of {math.ceil(options.texts / BLOCK)} blocks of {BLOCK} texts and scaled"
    )
    for context in ("frames", "words"):
        compare(case, context, options)
    del case
    print("\npeak memory of a process while scoring, index included, texts and scores aside, in MB")
    for context in ("frames", "words"):
        peaks = [f"{count} texts {peak(options, context, count):.0f}" for count in memory_counts(options.texts)]
        print(f"  context {context}: " + ", ".join(peaks))


def memory_counts(texts: int) -> list[int]:
    """Return half, once and twice the texts."""
    return [max(1, texts // 2), texts, 2 * texts]


if __name__ == "__main__":
    main()
