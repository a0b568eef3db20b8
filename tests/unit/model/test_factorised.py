"""The factorised head against the dense one: scores, every term, every gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.common.errors import ConfigError
from gare.config import ModelConfig
from gare.config.experiment import ObjectiveConfig
from gare.objective import increments as increments_module
from gare.objective import objective
from gare.scoring.head import PairDropout
from gare.scoring.increment.factorised import factorised_scores
from gare.scoring.increment.head import GareHead
from tests.unit.model.test_head import golden, random_case, with_golden_psi

ANCHORS = ("text", "video")


def weights(anchor="video", *, normalised=False, form="diversity"):
    return ObjectiveConfig.model_validate(
        {
            "information_bottleneck": {"weight": 0.1, "anchor": anchor, "normalised": normalised},
            "trust_region": {"weight": 0.3, "bound": 1e9, "anchor": anchor},
            "direction_diversity": {"weight": 0.7, "form": form, "anchor": anchor},
        }
    )


def trained_like(head, seed):
    torch.manual_seed(seed)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


def both(case, head, config):
    """(scores, loss, gradients of inputs and parameters) of the dense and of the factorised path."""
    results = []
    for path in ("dense", "factorised"):
        text, frames, words = (x.clone().requires_grad_() for x in (case[0], case[1], case[3]))
        if path == "dense":
            out = head(text, frames, case[2], words, case[4])
            scores, delta = out.scores, out.delta
        else:
            out = factorised_scores(head, text, frames, case[2], words, case[4])
            scores, delta = out.scores, out.increments
        loss = objective(scores, delta, torch.tensor(20.0).double(), config).share
        used = [text, frames, words, *head.parameters()]
        results.append((scores, loss, torch.autograd.grad(loss, used, allow_unused=True)))
    return results


def assert_same(dense, factorised, tolerance):
    assert torch.allclose(dense[0], factorised[0], atol=tolerance)
    assert torch.allclose(dense[1], factorised[1], rtol=tolerance)
    for a, b in zip(dense[2], factorised[2], strict=True):
        assert (a is None) == (b is None) or (a if b is None else b).abs().max() < tolerance
        if a is not None and b is not None:
            assert (a - b).abs().max() <= tolerance * max(1.0, float(a.abs().max()))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    side=st.sampled_from(["text", "video"]),
    context=st.sampled_from(["frames", "words"]),
    sign=st.sampled_from([1, -1]),
    query=st.sampled_from(["gap", "text"]),
    base=st.sampled_from(["pooled", "mean"]),
    anchor=st.sampled_from(ANCHORS),
    normalised=st.booleans(),
    form=st.sampled_from(["diversity", "orthogonality"]),
)
def test_factorised_head_and_objective_equal_the_dense_ones(
    seed, side, context, sign, query, base, anchor, normalised, form
):
    case = random_case(seed, texts=4, videos=4)
    config = ModelConfig(corrected=side, context=context, gap_sign=sign, query=query, video_base=base)
    head = trained_like(GareHead(8, config).double(), seed)
    assert_same(*both(case, head, weights(anchor, normalised=normalised, form=form)), 1e-8)


@pytest.mark.parametrize(("context", "anchor"), itertools.product(["frames", "words"], ANCHORS))
def test_blocks_of_rows_change_nothing(context, anchor, monkeypatch):
    case = random_case(1, texts=6, videos=6)
    head = trained_like(GareHead(8, ModelConfig(context=context)).double(), 1)
    whole = both(case, head, weights(anchor))
    monkeypatch.setattr(increments_module, "BLOCK_NUMBERS", 6 * 8 * 2)
    for a, b in zip(whole, both(case, head, weights(anchor)), strict=True):
        assert_same(a, b, 1e-10)


def test_rows_are_the_dense_increments():
    case = random_case(2)
    head = trained_like(GareHead(8, ModelConfig()).double(), 2)
    delta = head(*case).delta
    made = factorised_scores(head, *case).increments
    assert torch.allclose(made.rows(0, 3), delta, atol=1e-10)
    assert torch.allclose(made.lengths(), delta.norm(dim=-1), atol=1e-10)


def test_float32_gradients_stay_close_to_float64():
    case = list(random_case(3, texts=12, videos=12, dim=64))
    # A video of one frame has one increment for all texts: its spread is rounding alone, in either precision.
    case[2] = torch.ones_like(case[2])
    head = GareHead(64, ModelConfig()).double()
    exact = both(case, head, weights())[0]
    single = [x.float() if x.is_floating_point() else x for x in case]
    near = both(single, head.float(), weights())[1]
    assert (exact[0] - near[0]).abs().max() <= 2e-6
    for a, b in zip(exact[2][:2], near[2][:2], strict=True):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max()


@pytest.mark.parametrize("name", ["head_square", "head_trust_active", "head_trust_truncated"])
def test_factorised_head_equals_the_released_code(fixtures_dir, name):
    tensors, golden_config = golden(fixtures_dir, name)
    head = GareHead(golden_config["dim"], ModelConfig(pool_temperature=golden_config["pool_temperature"]))
    names = with_golden_psi(head, tensors)
    text, frames = tensors["text"].requires_grad_(), tensors["frames"].requires_grad_()
    out = factorised_scores(head, text, frames, torch.ones(frames.shape[:2], dtype=torch.bool))
    assert (out.scores - tensors["scores"]).abs().max() <= 2e-6
    terms = {
        "information_bottleneck": {"weight": golden_config["weight_information_bottleneck"]},
        "trust_region": {
            "weight": golden_config["weight_trust_region"],
            "bound": golden_config["trust_region_lower"],
        },
        "direction_diversity": {
            "weight": golden_config["weight_direction_diversity"],
            "alpha": golden_config["alpha"],
        },
    }
    scale = torch.tensor(golden_config["logit_scale"])
    loss = objective(out.scores, out.increments, scale, ObjectiveConfig.model_validate(terms)).share
    loss.backward()
    pairs = [(loss, tensors["loss.total"]), (text.grad, tensors["grad.text"]), (frames.grad, tensors["grad.frames"])]
    pairs += [
        (head.psi.get_parameter(ours).grad, tensors[f"grad.{theirs}"])
        for theirs, ours in names.items()
        if ours != "k_proj.bias"
    ]
    for got, expected in pairs:
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_baseline_and_missing_words():
    case = random_case(4)
    head = GareHead(8, ModelConfig(increment="none")).double()
    assert torch.allclose(factorised_scores(head, *case).scores, head(*case).scores, atol=1e-12)
    with pytest.raises(ConfigError, match="needs words"):
        factorised_scores(GareHead(8, ModelConfig(context="words")).double(), *case[:3])


@pytest.mark.parametrize("context", ["frames", "words"])
def test_shared_dropout_belongs_to_the_context_and_not_to_the_rank(context):
    text, frames, mask, words, word_mask = random_case(5, texts=4, videos=4)
    head = trained_like(GareHead(8, ModelConfig(context=context)).double(), 5)
    whole = factorised_scores(head, text, frames, mask, words, word_mask, PairDropout(0.5, 1, 2))
    part = factorised_scores(
        head, text[2:], frames, mask, words[2:], word_mask[2:], PairDropout(0.5, 1, 2, first_text=2)
    )
    assert torch.allclose(whole.scores[2:], part.scores, atol=1e-12)
    again = factorised_scores(head, text, frames, mask, words, word_mask, PairDropout(0.5, 1, 3))
    assert not torch.allclose(whole.scores, again.scores)


def test_increments_of_zero_have_finite_gradients():
    case = random_case(6, texts=4, videos=4)
    head = GareHead(8, ModelConfig()).double()
    torch.nn.init.zeros_(head.psi.mean_proj.weight)
    config = ObjectiveConfig.model_validate({"direction_diversity": {"weight": 0}})
    for _, _, gradients in both(case, head, config):
        assert all(g is None or torch.isfinite(g).all() for g in gradients)
