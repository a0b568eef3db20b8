"""Loss terms against the plain equations and the released code's golden tensors."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.config import ModelConfig
from gare.config.experiment import ObjectiveConfig
from gare.objective import direction_diversity, info_nce, information_bottleneck, objective, trust_region
from gare.objective.regularisers import REGULARISERS
from gare.scoring.increment.head import GareHead
from tests import reference
from tests.unit.model.test_head import golden, with_golden_psi

relative = lambda a, b: float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))  # noqa: E731


@pytest.mark.parametrize("name", ["head_square", "head_rect", "head_trust_active", "head_trust_truncated"])
def test_terms_and_gradients_equal_the_released_code(fixtures_dir, name):
    tensors, config = golden(fixtures_dir, name)
    head = GareHead(config["dim"], ModelConfig(pool_temperature=config["pool_temperature"]))
    names = with_golden_psi(head, tensors)
    text, frames = tensors["text"].requires_grad_(), tensors["frames"].requires_grad_()
    out = head(text, frames, torch.ones(frames.shape[:2], dtype=torch.bool))
    terms = {
        "information_bottleneck": information_bottleneck(out.delta),
        "trust_region": trust_region(out.delta, bound=config["trust_region_lower"]),
        "direction_diversity": direction_diversity(out.delta, alpha=config["alpha"]),
    }
    for term, value in terms.items():
        assert relative(value, tensors[f"loss.{term}"]) <= 1e-4, term
    total = sum(config[f"weight_{term}"] * value for term, value in terms.items())
    assert relative(total, tensors["loss.regularization_total"]) <= 1e-4
    if "loss.total" not in tensors:
        return  # not square: there is no InfoNCE to compare
    nce = info_nce(config["logit_scale"] * out.scores)
    assert relative(nce, tensors["loss.info_nce"]) <= 1e-4
    assert relative(nce + total, tensors["loss.total"]) <= 1e-4
    (nce + total).backward()
    assert relative(text.grad, tensors["grad.text"]) <= 1e-4
    assert relative(frames.grad, tensors["grad.frames"]) <= 1e-4
    for theirs, ours in names.items():
        gradient, expected = head.psi.get_parameter(ours).grad, tensors[f"grad.{theirs}"]
        if ours == "k_proj.bias":  # its true gradient is 0
            assert gradient.abs().max() <= 1e-5
        else:
            assert relative(gradient, expected) <= 1e-4, ours


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    texts=st.integers(2, 6),
    videos=st.integers(2, 6),
    anchor=st.sampled_from(["video", "text"]),
    reduction=st.sampled_from(["sum", "mean"]),
    normalised=st.booleans(),
    sigma=st.floats(0.1, 10),
    alpha=st.floats(0.5, 5),
)
def test_regularisers_equal_the_plain_equations(seed, texts, videos, anchor, reduction, normalised, sigma, alpha):
    delta = torch.randn(texts, videos, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got = information_bottleneck(delta, anchor=anchor, reduction=reduction, prior_sigma=sigma, normalised=normalised)
    want = reference.information_bottleneck(
        delta, anchor=anchor, reduction=reduction, sigma=sigma, normalised=normalised
    )
    assert torch.allclose(got, want, rtol=1e-10)
    assert torch.allclose(trust_region(delta, bound=0.5), reference.trust_region(delta, bound=0.5), rtol=1e-10)
    assert torch.allclose(
        direction_diversity(delta, alpha=alpha), reference.direction_diversity(delta, alpha=alpha), rtol=1e-10
    )


@settings(max_examples=15)
@given(seed=st.integers(0, 2**20), n=st.integers(2, 7))
def test_info_nce_equals_the_plain_equation(seed, n):
    logits = 3 * torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(info_nce(logits), reference.info_nce(logits), rtol=1e-10)


def test_smooth_trust_region_approaches_the_hard_maximum():
    delta = torch.randn(5, 6, 4, dtype=torch.float64) * 3
    value = -torch.stack([row.norm(dim=-1).var() for row in delta]).mean()
    for bound in (float(-value) / 2, float(-value) * 2):
        smooth = trust_region(delta, bound=bound, form="smooth", kappa=1e4)
        assert torch.allclose(smooth, value.clamp(min=-bound), atol=1e-3)


def test_smooth_trust_region_gradient_is_that_of_its_value():
    delta = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: trust_region(d, form="smooth", kappa=3.0), (delta,))


def test_orthogonality_is_zero_for_orthogonal_increments():
    eye = torch.eye(4, dtype=torch.float64)[None]
    assert direction_diversity(eye, form="orthogonality") == 0
    assert torch.isclose(direction_diversity(torch.ones_like(eye), form="orthogonality"), torch.tensor(1.0).double())


def test_gradient_of_the_bottleneck_is_finite_for_a_single_text():
    delta = torch.randn(1, 3, 4, requires_grad=True)
    information_bottleneck(delta).backward()
    assert torch.isfinite(delta.grad).all()


def test_terms_of_weight_zero_are_left_out():
    weights = {
        "information_bottleneck": {"weight": 0},
        "trust_region": {"weight": 0},
        "direction_diversity": {"weight": 0},
    }
    config = ObjectiveConfig.model_validate(weights)
    scores = torch.randn(4, 4)
    terms = objective(scores, torch.randn(4, 4, 8), torch.tensor(10.0), config)
    assert set(terms.totals()) == {"loss", "info_nce"}
    assert torch.equal(terms.share, info_nce(10 * scores))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**20), texts=st.integers(2, 5), videos=st.integers(2, 5))
def test_anchoring_on_the_video_is_anchoring_on_the_text_of_the_transposed_pairs(seed, texts, videos):
    delta = torch.randn(texts, videos, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turned = delta.transpose(0, 1)
    for form in ("diversity", "orthogonality"):
        assert torch.allclose(
            direction_diversity(delta, anchor="video", form=form), direction_diversity(turned, form=form)
        )
    assert torch.allclose(trust_region(delta, anchor="video", bound=1e9), trust_region(turned, bound=1e9))


def test_every_term_takes_the_settings_of_its_section():
    sections = {name: field.annotation for name, field in ObjectiveConfig.model_fields.items()}
    assert sections.keys() == REGULARISERS.keys()
    for name, section in sections.items():
        arguments = inspect.signature(REGULARISERS[name]).parameters
        assert {key: field.default for key, field in section.model_fields.items() if key != "weight"} == {
            key: arguments[key].default for key in arguments if key not in {"delta", "world"}
        }
