"""The ideal increment against autograd and brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gare.objective import ideal_increment, row_gradient


def case(seed, texts=3, videos=4, dim=6, size=0.5):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return draw(texts, dim), draw(texts, videos, dim), size * draw(texts, videos, dim)


def row_losses(text, video, delta, scale, corrected, match):
    moved, other = (text[:, None] + delta, video) if corrected == "text" else (video + delta, text[:, None])
    return F.cross_entropy(scale * F.cosine_similarity(moved, other, dim=-1), match, reduction="none")


@settings(max_examples=30)
@given(seed=st.integers(0, 2**20), corrected=st.sampled_from(["text", "video"]), scale=st.floats(0.1, 100))
def test_the_gradient_is_that_of_the_row_loss(seed, corrected, scale):
    text, video, delta = case(seed)
    match = torch.tensor([1, 1, 3])
    delta.requires_grad_()
    (expected,) = torch.autograd.grad(row_losses(text, video, delta, scale, corrected, match).sum(), delta)
    found = row_gradient(text, video, delta.detach(), scale, corrected=corrected, match=match)
    assert torch.allclose(found, expected, atol=1e-9 * scale, rtol=1e-9)


def test_summed_over_videos_it_is_the_gradient_of_the_text():
    text, video, delta = case(1)
    text.requires_grad_()
    (expected,) = torch.autograd.grad(row_losses(text, video, delta, 20.0, "text", torch.arange(3)).sum(), text)
    assert torch.allclose(row_gradient(text.detach(), video, delta, 20.0).sum(dim=1), expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**20), corrected=st.sampled_from(["text", "video"]), radius=st.floats(0.05, 5))
def test_the_step_ends_on_the_edge_of_the_trust_region(seed, corrected, radius):
    text, video, delta = case(seed)
    ideal = ideal_increment(text, video, delta, 10.0, corrected=corrected, radius=radius)
    assert torch.allclose(ideal.delta.norm(dim=-1), torch.full((3, 4), radius, dtype=torch.float64), rtol=1e-9)
    assert torch.allclose(ideal.delta, ideal.start - ideal.step[..., None] * ideal.gradient, atol=1e-9)
    assert (ideal.step >= 0).all()
    inside = ideal.start.norm(dim=-1)
    assert (inside <= radius * (1 + 1e-12)).all()
    assert torch.allclose(F.normalize(ideal.start, dim=-1), F.normalize(delta, dim=-1))
    untouched = delta.norm(dim=-1) <= radius
    assert torch.equal(ideal.start[untouched], delta[untouched])


def test_the_step_is_the_best_a_search_along_the_gradient_finds():
    text, video, delta = case(5)
    ideal = ideal_increment(text, video, delta, 10.0, radius=2.0)
    steps = torch.linspace(0, 1.5, 300_001, dtype=torch.float64)
    for i, j in ((0, 0), (0, 2), (1, 3), (2, 1)):
        start, g = ideal.start[i, j], ideal.gradient[i, j]
        reach = steps * float(ideal.step[i, j])
        legal = (start - reach[:, None] * g).norm(dim=-1) <= 2.0 + 1e-12
        linear = torch.where(legal, -reach * (g @ g), torch.inf)
        assert abs(float(reach[linear.argmin()] / ideal.step[i, j]) - 1) < 1e-5


def test_by_default_the_radius_is_the_longest_increment_of_the_row():
    text, video, delta = case(7)
    ideal = ideal_increment(text, video, delta, 10.0)
    longest = delta.norm(dim=-1).max(dim=1).values
    assert torch.equal(ideal.radius, longest[:, None].expand(3, 4))
    assert torch.equal(ideal.start, delta)
    assert torch.allclose(ideal.delta.norm(dim=-1), ideal.radius)
    per_row = ideal_increment(text, video, delta, 10.0, radius=torch.tensor([[1.0], [2.0], [3.0]]))
    assert torch.allclose(per_row.delta.norm(dim=-1)[:, 0], torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


def test_without_a_gradient_nothing_moves():
    text, video, delta = case(9, videos=1)
    ideal = ideal_increment(text, video, delta, 10.0, radius=5.0, match=torch.zeros(3, dtype=torch.int64))
    assert (ideal.gradient == 0).all()
    assert (ideal.step == 0).all()
    assert torch.equal(ideal.delta, delta)
    still = ideal_increment(text, video, torch.zeros_like(delta), 10.0, match=torch.zeros(3, dtype=torch.int64))
    assert (still.delta == 0).all()


def test_far_too_small_gradients_stay_finite_in_float32():
    text, video, delta = (x.float() for x in case(11))
    text[0] = 40 * video[0, 0] / video[0, 0].norm()  # its softmax is settled: the others' weights underflow
    ideal = ideal_increment(text, video, 1e-3 * delta, 1000.0, radius=1.0)
    assert torch.isfinite(ideal.delta).all()
    assert torch.isfinite(ideal.step).all()
    lengths = ideal.delta.norm(dim=-1)
    moved = ideal.step > 0
    assert torch.allclose(lengths[moved], torch.ones(()), atol=1e-5)
    assert not moved.all()


def test_a_video_per_column_is_the_same_for_every_row():
    text, video, delta = case(13)
    shared = video[0]
    a = ideal_increment(text, shared, delta, 10.0)
    b = ideal_increment(text, shared.expand_as(delta), delta, 10.0)
    assert torch.equal(a.delta, b.delta)


def test_the_ideal_increment_lowers_the_row_loss_for_a_small_radius():
    text, video, _ = case(15)
    none = torch.zeros_like(video)
    ideal = ideal_increment(text, video, none, 10.0, radius=1e-3)
    before, after = (row_losses(text, video, d, 10.0, "text", torch.arange(3)) for d in (none, ideal.delta))
    assert (after < before).all()
    expected = 1e-3 * ideal.gradient.norm(dim=-1).sum(dim=1)
    assert torch.allclose(before - after, expected, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype_and_carry_no_gradient(dtype):
    text, video, delta = (x.to(dtype).requires_grad_() for x in case(17))
    ideal = ideal_increment(text, video, delta, torch.tensor(10.0, requires_grad=True), radius=1.0)
    assert {ideal.delta.dtype, ideal.step.dtype, ideal.gradient.dtype} == {dtype}
    assert not ideal.delta.requires_grad
