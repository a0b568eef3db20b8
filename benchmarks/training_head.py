"""Compare the factorised training head with the published computation, forward and backward, in one run.

The peer is the published computation written plainly: every pair through psi's query, output, hidden and mean
projections, videos in blocks of 16, all activations kept. Both compute the published recipe's whole loss.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common.process import PeakMemory, own_process
from torch import Tensor
from torch.nn import functional as F

from gare.config import ModelConfig
from gare.config.experiment import ObjectiveConfig
from gare.objective import objective
from gare.scoring.increment.factorised import factorised_scores
from gare.scoring.increment.head import GareHead

BLOCK = 16
FRAMES = 12


def published(head: GareHead, text: Tensor, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and increments like the paper's code: all projections per pair."""
    psi = head.psi
    assert psi is not None
    scores, deltas = [], []
    for part, keep in zip(frames.split(BLOCK), mask.split(BLOCK), strict=True):
        similarity = torch.einsum("bd,vfd->bvf", text, part) / head.config.pool_temperature
        pooled = torch.einsum("bvf,vfd->bvd", similarity.softmax(-1) * keep, part)
        query = psi.layer_norm1(part.mean(1)[:, None] - text[None])
        context = psi.layer_norm1(part)
        mixed = F.scaled_dot_product_attention(psi.q_proj(query), psi.k_proj(context), psi.v_proj(context))
        y = psi.layer_norm2(psi.out_proj(mixed))
        delta = psi.mean_proj(psi.layer_norm3(y + psi.linear1(y))).transpose(0, 1)
        scores.append(F.cosine_similarity(text[:, None] + delta, pooled, dim=-1))
        deltas.append(delta)
    return torch.cat(scores, 1), torch.cat(deltas, 1)


def run(path: str, batch: int, dim: int, repeats: int) -> list[float]:
    """Return the seconds of forward and backward, ``repeats`` times after one to warm up."""
    torch.manual_seed(0)
    head, config, scale = GareHead(dim, ModelConfig()), ObjectiveConfig(), torch.tensor(100.0)
    text, frames = torch.randn(batch, dim, requires_grad=True), torch.randn(batch, FRAMES, dim, requires_grad=True)
    mask = torch.ones(batch, FRAMES, dtype=torch.bool)
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        if path == "factorised":
            made = factorised_scores(head, text, frames, mask)
            scores, delta = made.scores, made.increments
        elif path == "dense":
            scored = head(text, frames, mask)
            scores, delta = scored.scores, scored.delta
        else:
            scores, delta = published(head, text, frames, mask)
        objective(scores, delta, scale, config).share.backward()
        seconds.append(time.perf_counter() - begun)
    return seconds[1:] or seconds


def measured(path: str, batch: int, dim: int, repeats: int) -> tuple[float, float]:
    """Return median seconds and the peak memory in GiB beyond an idle process, in a separate process."""
    sizes = ["--batch", batch, "--dim", dim, "--repeats", repeats]
    out = own_process(__file__, "--path", path, *sizes).split()
    return float(out[0]), float(out[1])


def main() -> None:
    """Print the table, or one measurement for the table's own processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", choices=["published", "dense", "factorised"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", type=int, default=1024, help="batch of the single blocked step; 0 for none")
    arguments = parser.parse_args()
    if arguments.path:
        memory = PeakMemory()
        seconds = run(arguments.path, arguments.batch, arguments.dim, arguments.repeats)
        print(statistics.median(seconds), memory.added() / 1024)
        return
    print(
        f"head forward + backward, B = {arguments.batch}, F = {FRAMES}, D = {arguments.dim}, "
        f"{torch.get_num_threads()} threads, float32"
    )
    rows = {
        path: measured(path, arguments.batch, arguments.dim, arguments.repeats)
        for path in ("published", "dense", "factorised")
    }
    seconds, memory = rows["published"]
    for path, (took, peak) in rows.items():
        print(
            f"  {path:10s} {took:7.3f} s  {seconds / took:5.1f} x   {peak:5.2f} GiB  {peak / memory:5.2f} of the memory"
        )
    if arguments.large:
        took, peak = measured("factorised", arguments.large, arguments.dim, 0)
        print(f"one factorised step at B = {arguments.large}: {took:.1f} s, {peak:.2f} GiB")


if __name__ == "__main__":
    main()
