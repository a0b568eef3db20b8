"""Dropout in the factorised head: the terms of the dense form with its mask per pair, over many draws."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from gare.common.errors import ConfigError
from gare.config import Config, ModelConfig
from gare.config.tree import with_overrides
from gare.objective import direction_diversity, information_bottleneck, trust_region
from gare.objective.increments import PairSpread, as_increments
from gare.runs.inputs import check_increments
from gare.scoring.head import PairDropout
from gare.scoring.increment.factorised import factorised_scores
from gare.scoring.increment.head import GareHead

B, L, D, DRAWS, RATE = 12, 4, 192, 60, 0.3
OWN = {"frames": "video", "words": "text"}
OTHER = {"frames": "text", "words": "video"}


def case():
    g = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[0, 2:] = False
    return draw(B, D), draw(B, L, D), mask, draw(B, L, D), mask.flip(0)


def psi(context):
    torch.manual_seed(5)
    return GareHead(D, ModelConfig(context=context))


def drawn(head, path, step):
    dropout = PairDropout(RATE, 1, step)
    if path == "dense":
        return as_increments(head(*case(), dropout).delta)
    return factorised_scores(head, *case(), dropout).increments


def moments(increments, anchor):
    return increments.video_moments() if anchor == "video" else increments.text_moments()


def test_a_spread_at_length_one_has_a_mean_squared_length_of_one():
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    pair = PairSpread(draw(5, 1, 3), draw(5, 3, 8), draw(5, 1, 4), draw(5, 4, 8), draw(8, 8)).unit()
    mean, variance = pair.moments()
    torch.testing.assert_close(mean.square().sum(dim=1) + variance.sum(dim=1), torch.ones(5))


@cache
def dense_draws(context, normalised=False):
    """Over the draws: the mean of mean^2 and of the variance, with the latter's standard error, and of the gradient."""
    head = psi(context)
    squares, variances, gradient = [], [], 0.0
    for step in range(DRAWS):
        made = drawn(head, "dense", step)
        mean, variance = moments(made.unit() if normalised else made, OWN[context])
        squares.append(mean.detach().square())
        variances.append(variance.detach())
        term = information_bottleneck(made, anchor=OWN[context], normalised=normalised)
        gradient = gradient + torch.autograd.grad(term, head.psi.linear1.weight)[0] / DRAWS
    stacked = torch.stack(variances)
    return torch.stack(squares).mean(0), stacked.mean(0), stacked.std(0) / DRAWS**0.5, gradient


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("context", ["frames", "words"])
def test_bottleneck_has_the_spread_of_dropout_drawn_per_pair(context, normalised):
    square, variance, error, gradient = dense_draws(context, normalised)
    head = psi(context)
    made = drawn(head, "factorised", 0)
    got_mean, got = moments(made.unit() if normalised else made, OWN[context])
    # LN3 and the unit length divide by sums over D dimensions, taken at their means: off by 1 / D each.
    assert float((got.sum() / variance.sum()).detach()) == pytest.approx(1, abs=3 / D)
    assert (
        float(((got - variance) / error).square().mean().detach()) < 1.5
    )  # 1 where nothing but the draws' own error is left
    # The mean over texts of a draw has the noise of their number beside the mean itself.
    assert float(((got_mean.square() + got / B).sum() / square.sum()).detach()) == pytest.approx(1, abs=0.02)
    term = information_bottleneck(made, anchor=OWN[context], normalised=normalised)
    (slope,) = torch.autograd.grad(term, head.psi.linear1.weight)
    assert float(torch.nn.functional.cosine_similarity(slope.flatten(), gradient.flatten(), dim=0)) > 0.98
    assert float(slope.norm() / gradient.norm()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("context", ["frames", "words"])
def test_one_mask_per_context_alone_would_miss_most_of_that_spread(context):
    made = drawn(psi(context), "factorised", 0)
    made._spread = None
    share = moments(made, OWN[context])[1].sum() / dense_draws(context)[1].sum()
    assert float(share.detach()) < 0.6


@pytest.mark.parametrize("context", ["frames", "words"])
def test_terms_anchored_on_the_other_side_have_the_mean_of_the_dense_form(context):
    """Such a term sees one pair of each context, whose masks are as independent as the dense form's."""
    head, anchor = psi(context), OTHER[context]
    terms = {
        "trust region": lambda made: trust_region(made, anchor=anchor, bound=1e9),
        "direction": lambda made: direction_diversity(made, anchor=anchor),
        "bottleneck": lambda made: information_bottleneck(made, anchor=anchor),
    }
    with torch.no_grad():
        for name, term in terms.items():
            values = {
                path: torch.stack([term(drawn(head, path, step)) for step in range(DRAWS)])
                for path in ("dense", "factorised")
            }
            error = sum(float(v.var()) / DRAWS for v in values.values()) ** 0.5
            difference = float(values["dense"].mean() - values["factorised"].mean())
            assert abs(difference) < 3.5 * error, (name, difference, error)


def test_without_dropout_nothing_is_added():
    made = factorised_scores(psi("frames"), *case(), PairDropout(0.0, 1, 0)).increments
    dense = as_increments(psi("frames")(*case()).delta)
    assert torch.allclose(made.video_moments()[1], dense.video_moments()[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("term", ["trust_region", "direction_diversity"])
@pytest.mark.parametrize("context", ["frames", "words"])
def test_terms_over_pairs_that_share_a_mask_are_refused(term, context):
    changes = {
        "train.increments": "factorised",
        "model.context": context,
        "objective.trust_region.anchor": OTHER[context],
        "objective.direction_diversity.anchor": OTHER[context],
    }
    check_increments(with_overrides(Config(), changes))
    changes[f"objective.{term}.anchor"] = OWN[context]
    with pytest.raises(ConfigError, match=rf"objective.{term}.anchor is {OWN[context]}.*train.increments to dense"):
        check_increments(with_overrides(Config(), changes))
    for change in ({"model.dropout": 0.0}, {f"objective.{term}.weight": 0.0}, {"train.increments": "dense"}):
        check_increments(with_overrides(Config(), changes | change))


def test_a_query_that_does_not_factorise_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"model.query residual has no factorised increments"):
        check_increments(with_overrides(Config(), {"train.increments": "factorised", "model.query": "residual"}))
