"""The objective over several processes equals the single process's (the method's section 7)."""

from __future__ import annotations

import itertools

import pytest
import torch

from gare.config import ModelConfig
from gare.config.experiment import ObjectiveConfig
from gare.objective import SINGLE, objective
from gare.scoring.head import PairDropout
from gare.scoring.increment.factorised import factorised_scores
from gare.scoring.increment.head import GareHead
from gare.training.step import sum_gradients
from tests.ranks import on_ranks

B, F, W, D = 8, 3, 4, 16


def inputs(dtype):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    text, frames, words = draw(B, D), draw(B, F, D), draw(B, W, D)
    frame_mask = torch.arange(F) < torch.randint(1, F + 1, (B, 1), generator=g)
    word_mask = torch.arange(W) < torch.randint(1, W + 1, (B, 1), generator=g)
    if dtype == torch.float32:
        # A context of one position has one increment for all: its spread, whose logarithm is taken, is rounding alone.
        frame_mask[:, :2] = word_mask[:, :2] = True
    return text, frames, frame_mask, words, word_mask


def gradients(ranks, model, config, path, dtype):
    """Loss and all gradients of one toy encoder and head, as a rank sees them after the reduction."""
    torch.manual_seed(1)
    head = GareHead(D, model).to(dtype)
    encoder = torch.nn.Linear(D, D).to(dtype)
    text, frames, frame_mask, words, word_mask = inputs(dtype)
    own = ranks.own(B // ranks.size)
    pairs = (
        encoder(text[own]),
        ranks.gather(encoder(frames[own])),
        ranks.gather_constant(frame_mask[own].int()).bool(),
        encoder(words[own]),
        word_mask[own],
        PairDropout(0.3, 0, 0, first_text=ranks.rank * (B // ranks.size)),
    )
    if path == "dense":
        out = head(*pairs)
        scores, delta = out.scores, out.delta
    else:
        out = factorised_scores(head, *pairs)
        scores, delta = out.scores, out.increments
    terms = objective(scores, delta, torch.tensor(20.0, dtype=dtype), config, ranks)
    terms.share.backward()
    parameters = [*encoder.parameters(), *head.parameters()]
    sum_gradients(parameters, ranks)
    return {name: float(value) for name, value in terms.totals(ranks).items()}, [p.grad for p in parameters]


def cases():
    for side, context, anchor, bound in itertools.product(
        ["text", "video"], ["frames", "words"], ["video", "text"], [0.5, 1e-9]
    ):
        model = ModelConfig(corrected=side, context=context)
        weights = {
            "information_bottleneck": {"weight": 0.01, "anchor": anchor},
            "trust_region": {"weight": 3.0, "bound": bound, "form": "hard", "anchor": anchor},
            "direction_diversity": {"weight": 0.5, "anchor": anchor},
        }
        yield model, ObjectiveConfig.model_validate(weights)
    yield ModelConfig(), ObjectiveConfig.model_validate({"trust_region": {"weight": 2.0, "form": "smooth"}})
    yield ModelConfig(increment="none"), ObjectiveConfig()


def wrong(ranks):
    """What is not as one process has it."""
    found = []
    kinds = itertools.product(cases(), ["dense", "factorised"], [(torch.float64, 1e-10), (torch.float32, 1e-5)])
    for number, ((model, config), path, (dtype, limit)) in enumerate(kinds):
        values, got = gradients(ranks, model, config, path, dtype)
        expected_values, expected = gradients(SINGLE, model, config, path, dtype)
        for name, value in expected_values.items():
            if not abs(values[name] - value) <= limit * max(1, abs(value)):
                found.append(f"case {number} ({path}): {name} is {values[name]}, not {value}")
        largest = max(float(b.abs().max()) for b in expected)
        # The key bias has the gradient 0, so its rounding is measured by the others.
        least = 1e-6 if dtype == torch.float64 else 0.05 * largest
        for index, (a, b) in enumerate(zip(got, expected, strict=True)):
            error = float((a - b).abs().max() / b.abs().max().clamp(min=least))
            if not error <= limit:
                found.append(f"case {number} ({path}, {dtype}): gradient {index} is off by {error}")
    if ranks.share_text("from rank 0" if ranks.rank == 0 else "other") != "from rank 0":
        found.append("share_text")
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_over_ranks_equal_the_single_process(size):
    assert on_ranks(size, wrong) == [[]] * size
