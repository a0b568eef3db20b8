"""Factorised training where t + D, or the gap between text and video, is nearly 0: as exact as the dense form."""

from __future__ import annotations

import pytest
import torch

from gare.config import ModelConfig
from gare.scoring.increment import factorised as trust_module
from gare.scoring.increment.factorised import factorised_scores
from gare.scoring.increment.head import GareHead
from tests.unit.model.test_head import random_case

DIM = 64


def nearly_opposite(side, ratio):
    """A head whose increments nearly cancel what they are added to, and its float64 inputs."""
    text, frames, mask, words, word_mask = random_case(3, texts=6, videos=6, dim=DIM)
    torch.manual_seed(0)
    head = GareHead(DIM, ModelConfig(corrected=side, video_base="mean")).double()
    with torch.no_grad():
        one = torch.randn(DIM, dtype=torch.float64)
        head.psi.mean_proj.weight.mul_(ratio)
        head.psi.mean_proj.bias.copy_(-one)
        if side == "text":
            text = one + ratio * text
        else:
            frames = one + ratio * frames
    return head, (text, frames, mask, words, word_mask)


def nearly_the_same(context):
    """Texts that are nearly their videos' mean: the query of the diagonal nearly vanishes."""
    text, frames, mask, words, word_mask = random_case(4, texts=6, videos=6, dim=DIM)
    mean = (frames * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.manual_seed(0)
    head = GareHead(DIM, ModelConfig(context=context)).double()
    for parameter in head.psi.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head, (mean + 1e-4 * text, frames, mask, words, word_mask)


def results(head, inputs, path, dtype):
    """Scores, and gradients of a sum of them with unequal weights, in a precision."""
    head = head.to(dtype)
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    leaves = [x.requires_grad_() for x in (inputs[0].clone(), inputs[1].clone())]
    made = (head if path == "dense" else lambda *a: factorised_scores(head, *a))(*leaves, *inputs[2:])
    weights = torch.linspace(-1, 1, made.scores.numel(), dtype=dtype).view_as(made.scores)
    gradients = torch.autograd.grad((weights * made.scores).sum(), [*leaves, head.psi.mean_proj.weight])
    return [made.scores.detach().double(), *(g.double() for g in gradients)]


def worst(got, expected):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("ratio", [1e-2, 1e-3])
@pytest.mark.parametrize("side", ["text", "video"])
def test_increments_that_nearly_cancel_are_as_exact_as_the_dense_form(side, ratio, monkeypatch):
    head, inputs = nearly_opposite(side, ratio)
    exact = results(head, inputs, "dense", torch.float64)
    dense = worst(results(head, inputs, "dense", torch.float32), exact)
    guarded = worst(results(head, inputs, "factorised", torch.float32), exact)
    monkeypatch.setattr("gare.scoring.increment.cell.NORM_TRUST", 0.0)
    unguarded = worst(results(head, inputs, "factorised", torch.float32), exact)
    assert guarded < 4 * dense + 1e-5
    assert unguarded > 10 * guarded


@pytest.mark.parametrize("context", ["frames", "words"])
def test_a_query_that_nearly_vanishes_is_as_exact_as_the_dense_form(context, monkeypatch):
    head, inputs = nearly_the_same(context)
    exact = results(head, inputs, "dense", torch.float64)
    dense = worst(results(head, inputs, "dense", torch.float32), exact)
    guarded = worst(results(head, inputs, "factorised", torch.float32), exact)
    monkeypatch.setattr("gare.scoring.increment.cell.QUERY_TRUST", 0.0)
    unguarded = worst(results(head, inputs, "factorised", torch.float32), exact)
    assert guarded < 4 * dense + 1e-5
    assert unguarded > 2 * guarded


@pytest.mark.parametrize("context", ["frames", "words"])
def test_pairs_taken_one_block_after_another_are_the_same(context, monkeypatch):
    head, inputs = nearly_the_same(context)
    monkeypatch.setattr("gare.scoring.increment.cell.NORM_TRUST", 2.0)
    monkeypatch.setattr("gare.scoring.increment.cell.QUERY_TRUST", 2.0)
    whole = results(head, inputs, "factorised", torch.float64)
    monkeypatch.setattr(trust_module, "GATHERED_NUMBERS", 7 * DIM * 10)
    assert worst(results(head, inputs, "factorised", torch.float64), whole) < 1e-9
    assert worst(results(head, inputs, "dense", torch.float64), whole) < 1e-8
