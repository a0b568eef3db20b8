"""What the paper argues with: each measure against its definition, and the figure."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from gare.config import ModelConfig
from gare.diagnostics.figure import increment_figure
from gare.diagnostics.measures import (
    alignment,
    angles,
    compare_steps,
    gradient_tension,
    margins,
    modality_gap,
    observe,
    pair_diagnostics,
    step_diagnostics,
    uniformity,
)
from gare.model import GareModel
from gare.objective import ideal_increment, info_nce


@pytest.fixture
def model(toy_clip):
    torch.manual_seed(0)
    return GareModel.from_clip(toy_clip, ModelConfig(temporal_layers=1)).eval()


def vectors(seed=0, texts=5, videos=6, frames=3, dim=64):
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(frames) < torch.randint(1, frames + 1, (videos, 1), generator=g)
    return torch.randn(texts, dim, generator=g), torch.randn(videos, frames, dim, generator=g), mask


def test_gap_alignment_and_uniformity_are_their_definitions():
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    a, b = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    assert torch.allclose(modality_gap(x, 7 * y), (a.mean(0) - b.mean(0)).norm())
    assert torch.allclose(alignment(x, y), torch.stack([(p - q) @ (p - q) for p, q in zip(a, b, strict=True)]).mean())
    pairs = [math.exp(-2 * float((a[i] - a[j]) @ (a[i] - a[j]))) for i in range(4) for j in range(4) if i != j]
    assert float(uniformity(x)) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-6)
    assert math.isnan(uniformity(x[:1]))
    same = torch.ones(3, 2)
    assert float(modality_gap(same, same)) == float(alignment(same, same)) == 0
    assert float(uniformity(same)) == pytest.approx(0, abs=1e-6)


def test_angles_are_right_where_arccos_is_not():
    x = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 0]])
    y = torch.tensor([[3.0, 0], [0, 2], [-1, 0], [1, 1e-6], [1, 0]])
    found = angles(x, y)
    assert found[:3].tolist() == pytest.approx([0, 90, 180])
    assert float(found[3]) == pytest.approx(math.degrees(1e-6), rel=1e-3)
    assert found[4].isnan()


def test_margins_are_against_the_best_other_video():
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.3, 0.4]])
    assert margins(scores, torch.tensor([0, 1])).tolist() == pytest.approx([0.4, -0.1])


def test_tension_is_0_where_gradients_cancel_and_1_where_they_agree():
    g = torch.tensor([[[1.0, 0], [-1, 0]], [[1, 0], [2, 0]], [[3, 0], [0, 4]], [[0, 0], [0, 0]]])
    assert gradient_tension(g)[:3].tolist() == pytest.approx([0, 1, 5 / 7])
    assert gradient_tension(g)[3].isnan()


@pytest.mark.parametrize("corrected", ["text", "video"])
def test_the_observed_state_scores_as_the_model_does(toy_clip, corrected):
    model = GareModel.from_clip(toy_clip, ModelConfig(temporal_layers=1, corrected=corrected)).eval()
    text, frames, mask = vectors()
    state = observe(model, text, frames, mask)
    assert torch.allclose(state.scores(), model.score(text, frames, mask).scores, atol=1e-6)
    assert torch.allclose(state.gap[2, 1], frames[1][mask[1]].mean(dim=0) - text[2], atol=1e-6)
    figures = pair_diagnostics(state)
    assert all(math.isfinite(value) for value in figures.values())
    side = "video" if corrected == "text" else "text"
    assert figures[f"uniformity/{side}_before"] == figures[f"uniformity/{side}_after"]
    assert figures["increment_norm/positive"] > 0
    assert figures["gradient_tension/after"] <= 1


def test_a_step_along_the_ideal_agrees_with_it_entirely():
    text, _, delta = (x.double() for x in (torch.randn(3, 5), torch.randn(3), torch.randn(3, 4, 5)))
    ideal = ideal_increment(text, torch.randn(4, 5).double(), delta, 10.0, radius=9.0)
    steps = compare_steps(ideal.start, ideal.delta, ideal)
    assert torch.allclose(steps.effective, ideal.step)
    assert torch.allclose(steps.cosine, torch.ones(3, 4).double())
    half_back = compare_steps(ideal.start, ideal.start + 0.5 * ideal.gradient, ideal)
    assert torch.allclose(half_back.effective, torch.full((3, 4), -0.5).double())
    assert torch.allclose(half_back.cosine, -torch.ones(3, 4).double())
    assert compare_steps(ideal.start, ideal.start, ideal).cosine.isnan().all()


def test_an_optimiser_step_is_compared_with_the_ideal_one(model):
    text, frames, mask = vectors(texts=6)
    before = observe(model, text, frames, mask)
    optimiser = torch.optim.SGD(model.head.parameters(), lr=0.5)
    info_nce(before.logit_scale * model.score(text, frames, mask).scores).backward()
    optimiser.step()
    figures = step_diagnostics(before, observe(model, text, frames, mask), radius=30.0)
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["analytic_step/positive"] > 0
    assert figures["effective_step/positive"] > 0
    assert figures["step_cosine/positive"] > 0


@pytest.mark.parametrize("corrected", ["text", "video"])
def test_the_figure_is_drawn(toy_clip, tmp_path, corrected):
    model = GareModel.from_clip(toy_clip, ModelConfig(temporal_layers=1, corrected=corrected)).eval()
    text, frames, mask = vectors(texts=8)
    match = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    increment_figure(observe(model, text, frames, mask, match=match), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size == (1210, 836)
        assert len(picture.convert("RGB").getcolors(2**20)) > 50


def test_the_figure_of_a_model_without_increment_is_drawn_too(toy_clip, tmp_path):
    model = GareModel.from_clip(toy_clip, ModelConfig(temporal_layers=1, increment="none")).eval()
    state = observe(model, *vectors(texts=2, videos=2))
    increment_figure(state, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
