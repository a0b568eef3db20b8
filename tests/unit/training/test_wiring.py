"""The wiring of training: each setting, step number and draw arrives where it has its effect."""

from __future__ import annotations

import math

import pytest
import torch

from gare.config.tree import with_overrides
from gare.data.batches import make_batch
from gare.data.shards import ShardSet
from gare.model import GareModel
from gare.objective import ALONE
from gare.training import loop
from gare.training.ema import Ema
from gare.training.inputs import open_data
from gare.training.local import fit_local
from gare.training.optimiser import freeze, make_optimiser, set_learning_rates
from gare.training.step import backward, train_step

SAMPLES = [(video, video % 2) for video in range(8)]


@pytest.fixture
def config(toy_run):
    return toy_run("train.global_batch=8", "model.dropout=0.3")


def built(config):
    torch.manual_seed(0)
    model = GareModel.from_clip(config.model.clip, config.model)
    freeze(model, config.train)
    split = ShardSet(config.runtime.shards).split("train")
    return model, make_batch(split, SAMPLES, model.tokenizer, config, model.image_size)


def stepped(config, *, scaler=None, ema=None):
    """A model after one step at its peak rates, and what the step reports."""
    model, batch = built(config)
    optimiser = make_optimiser(model, config.train)
    set_learning_rates(optimiser, 1.0)
    values = train_step(model, optimiser, batch, config, ALONE, 0, scaler=scaler, ema=ema and ema(model))
    return model, values


def test_a_step_leaves_the_logit_scale_within_its_bound(config):
    model, batch = built(with_overrides(config, {"model.max_logit_scale": 20.0}))
    model.clip.logit_scale.data.fill_(math.log(100.0))
    optimiser = make_optimiser(model, config.train)
    values = train_step(model, optimiser, batch, config, ALONE, 0)
    assert float(model.clip.logit_scale.detach()) == pytest.approx(math.log(20.0))
    assert values["logit_scale"] == pytest.approx(20.0)


@pytest.fixture
def run(toy_run, monkeypatch):
    """The settings of a run of three epochs, and each step's number, rates over their peaks and videos."""
    config = toy_run("train.epochs=3", "train.warmup=0.25")
    seen, true = [], loop.train_step

    def train_step(model, optimiser, batch, config, ranks, step, **more):
        factors = {group["lr"] / group["peak_lr"] for group in optimiser.param_groups}
        seen.append((step, factors, list(batch.video_ids)))
        return true(model, optimiser, batch, config, ranks, step, **more)

    monkeypatch.setattr(loop, "train_step", train_step)
    fit_local(config, quiet=True)
    return config, seen


def test_steps_count_over_epochs_and_the_rate_rises_once_and_falls_once(run):
    config, seen = run
    total = len(seen)
    assert total % config.train.epochs == 0
    assert [step for step, _, _ in seen] == list(range(total))
    for step, factors, _ in seen:
        x = step / total
        wanted = x / 0.25 if x < 0.25 else 0.5 * (1 + math.cos(math.pi * x))
        assert list(factors) == pytest.approx([wanted] * len(factors), abs=1e-12)


def test_every_epoch_has_an_order_of_its_own(run):
    config, seen = run
    each = len(seen) // config.train.epochs
    epochs = [[videos for _, _, videos in seen[start : start + each]] for start in range(0, len(seen), each)]
    data = open_data(config)
    for number, made in enumerate(epochs):
        names = [[data.train.videos[video].video_id for video, _ in batch] for batch in data.batches(config, number)]
        assert made == names
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def losses(config, step):
    model, batch = built(config)
    return backward(model.train(), batch, config, ALONE, step)[0].totals(ALONE)


@pytest.mark.parametrize("more", [{}, {"train.increments": "factorised"}, {"train.chunk": 3}])
def test_dropout_is_drawn_anew_by_step_and_by_seed(config, more):
    config = with_overrides(config, more)
    first = losses(config, 3)
    assert losses(config, 3) == first
    assert losses(config, 4) != first
    assert losses(with_overrides(config, {"train.seed": config.train.seed + 1}), 3) != first


@pytest.mark.parametrize("kind", ["adamw", "bert_adam"])
def test_the_optimiser_takes_the_settings_betas_and_epsilon(config, kind):
    own = {"train.optimizer": kind, "train.beta1": 0.7, "train.beta2": 0.8, "train.eps": 0.003}
    model, _ = built(config)
    for group in make_optimiser(model, with_overrides(config, own).train).param_groups:
        assert group["betas"] == (0.7, 0.8)
        assert group["eps"] == 0.003


def test_scaled_gradients_are_unscaled_before_they_are_clipped(config):
    # With BertAdam a step's size follows the gradient's; its norm is far above the bound.
    config = with_overrides(config, {"train.max_grad_norm": 1e-3, "train.optimizer": "bert_adam", "train.eps": 1.0})
    plain, values = stepped(config)
    scaled, scaled_values = stepped(config, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**12))
    assert scaled_values["grad_norm"] == pytest.approx(values["grad_norm"], rel=1e-5)
    assert values["grad_norm"] > 1e-2
    before, _ = built(config)
    for (name, start), a, b in zip(before.named_parameters(), plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(b - start, a - start, rtol=1e-3, atol=1e-9, msg=name)


def test_a_step_that_is_left_out_does_not_move_the_average(config):
    made = []

    def ema(model):
        made.append(Ema(model, 0.5))
        for parameter in model.parameters():
            parameter.data.add_(1.0)  # whatever the average takes in now, shows
        model.head.psi.mean_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
        return made[0]

    _, values = stepped(config, scaler=torch.amp.GradScaler("cpu", init_scale=8.0), ema=ema)
    assert values["skipped"] == 1.0
    state = made[0].model_state()
    start, _ = built(config)
    assert all(torch.equal(state[name], value) for name, value in start.named_parameters() if value.requires_grad)
    assert made[0].state_dict()["updates"] == 0


def test_decay_spares_biases_norms_embeddings_positions_and_the_logit_scale(config):
    model, _ = built(config)
    groups = make_optimiser(model, config.train).param_groups
    decayed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in decayed
            continue
        spared = name.endswith("bias") or parameter.ndim < 2 or "embedding" in name or name == "temporal.positions"
        assert decayed[id(parameter)] == (0.0 if spared else config.train.weight_decay), name
    names = [name for name, p in model.named_parameters() if p.requires_grad and decayed[id(p)] == 0.0]
    for kind in ("class_embedding", "position_embedding", "token_embedding", "layer_norm", "temporal.positions"):
        assert any(kind in name for name in names), kind


def test_bert_adam_decays_all_but_biases_as_released(config):
    model, _ = built(config)
    groups = make_optimiser(model, with_overrides(config, {"train.optimizer": "bert_adam"}).train).param_groups
    decayed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert decayed[id(parameter)] == (0.0 if "bias" in name else config.train.weight_decay), name
