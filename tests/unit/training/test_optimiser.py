"""Schedule, parameter groups, and the released optimiser rule."""

from __future__ import annotations

import math

import pytest
import torch

from gare.config import ModelConfig, TrainConfig
from gare.model import GareModel
from gare.model.scratch import ScratchClip, make_clip
from gare.training.optimiser import BertAdam, freeze, learning_rate_factor, parameter_groups


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    make_clip(["a red circle"], folder, ScratchClip(32, 16, 64, 1, 1, 16, 280))
    return GareModel.from_clip(folder, ModelConfig(temporal_layers=1))


def test_schedule_rises_linearly_then_falls_by_an_unshifted_cosine():
    assert learning_rate_factor(0, 100, 0.1) == 0
    assert learning_rate_factor(5, 100, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(10, 100, 0.1) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.1)))
    assert learning_rate_factor(50, 100, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(0, 100, 0.0) == 1


def names_of(model, groups):
    by_id = {id(p): n for n, p in model.named_parameters()}
    return {g["name"]: {by_id[id(p)] for p in g["params"]} for g in groups}


def test_adamw_decays_matrices_only_and_clip_has_its_own_rate(model):
    config = TrainConfig()
    freeze(model, config)
    groups = parameter_groups(model, config)
    names = names_of(model, groups)
    assert {g["name"]: (g["peak_lr"], g["weight_decay"]) for g in groups} == {
        "clip/decay": (1e-7, 0.2),
        "clip/no_decay": (1e-7, 0.0),
        "new/decay": (1e-4, 0.2),
        "new/no_decay": (1e-4, 0.0),
    }
    assert "clip.logit_scale" in names["clip/no_decay"]
    assert "clip.text_model.embeddings.token_embedding.weight" in names["clip/no_decay"]
    assert "temporal.positions" in names["new/no_decay"]
    assert "head.psi.layer_norm1.weight" in names["new/no_decay"]
    assert "head.psi.mean_proj.weight" in names["new/decay"]
    every = set().union(*names.values())
    assert every == {n for n, _ in model.named_parameters()} - {"clip.vision_model.embeddings.patch_embedding.weight"}


def test_released_rule_decays_all_but_biases(model):
    names = names_of(model, parameter_groups(model, TrainConfig(optimizer="bert_adam")))
    assert all("bias" in n for n in names["clip/no_decay"] | names["new/no_decay"])
    assert "clip.logit_scale" in names["clip/decay"]


def test_bert_adam_is_the_released_update():
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = BertAdam([{"params": [p], "lr": 0.1, "weight_decay": 0.2}], betas=(0.9, 0.98), eps=1e-6)
    m = v = torch.zeros(2)
    expected = p.detach().clone()
    for gradient in (torch.tensor([0.5, -1.0]), torch.tensor([0.1, 0.3])):
        p.grad = gradient
        optimiser.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        expected = expected - 0.1 * (m / (v.sqrt() + 1e-6) + 0.2 * expected)
    assert torch.allclose(p.detach(), expected, atol=1e-6)
