"""What the loop and the step hand on, and when: each test is named after what goes wrong unnoticed without it."""

from __future__ import annotations

import math

import pytest
import torch

from gare.config.tree import with_overrides
from gare.launch.local import fit_local
from gare.objective import SINGLE
from gare.runs.inputs import open_data
from gare.training import loop
from gare.training.optimiser import make_optimiser, parameter_groups, set_learning_rates
from gare.training.scaler_and_average import Ema
from gare.training.step import backward, train_step
from tests.unit.training.test_step import REGULARISERS, broken_gradient, built

EPOCHS = 3
CROPPED = ("data.crop=random", "prepare.crop=null", "prepare.short_side=40")


@pytest.fixture(scope="module")
def watched_run(toy_clip, tmp_path_factory):
    """Settings and data of a run, and of each of its steps: the rates, the batch, the number and the first weight."""
    from tests import toy

    folder = tmp_path_factory.mktemp("watched")
    larger = {"shape": (40, 40), "crop": None, "short_side": 40}
    shards = toy.make_shards(folder / "shards", {"train": 10, "dev": 3}, **larger)
    more = (f"train.epochs={EPOCHS}", "train.warmup=0.25", "train.lr_clip=1e-4", *CROPPED)
    config = toy.toy_config(toy_clip, shards, folder / "runs", *more)
    seen, true_step = [], loop.train_step

    def train_step(model, optimiser, batch, config, ranks, step, **more):
        rates = {group["name"]: group["lr"] for group in optimiser.param_groups}
        before = model.head.psi.mean_proj.weight.detach().clone()
        values = true_step(model, optimiser, batch, config, ranks, step, **more)
        moved = not torch.equal(before, model.head.psi.mean_proj.weight)
        seen.append({"step": step, "rates": rates, "videos": batch.video_ids, "frames": batch.frames, "moved": moved})
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", train_step)
        fit_local(config, quiet=True)
    return config, open_data(config), seen


def test_the_rate_of_each_step_is_the_schedules_at_the_steps_taken_before_over_the_whole_run(watched_run):
    config, data, seen = watched_run
    total = len(seen)
    assert total == data.steps == EPOCHS * len(data.batches(config, 0))
    for taken, at in enumerate(seen):
        x = taken / total
        factor = x / 0.25 if x < 0.25 else 0.5 * (1 + math.cos(math.pi * x))
        for name, rate in at["rates"].items():
            peak = config.train.lr_clip if name.startswith("clip/") else config.train.lr_new
            assert rate == pytest.approx(peak * factor, rel=1e-12), (taken, name)
    assert [at["moved"] for at in seen] == [False] + [True] * (total - 1)


def test_steps_are_numbered_through_the_epochs_so_that_each_draws_its_own_dropout(watched_run):
    assert [at["step"] for at in watched_run[2]] == list(range(len(watched_run[2])))


def test_every_epoch_has_its_own_order_and_its_own_frames(watched_run):
    from gare.data.batches import make_batch
    from gare.model.tokenizer import Tokenizer

    config, data, seen = watched_run
    per_epoch = data.steps // EPOCHS
    orders = [[at["videos"] for at in seen[start : start + per_epoch]] for start in range(0, data.steps, per_epoch)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    tokenizer, views = Tokenizer.load(config.model.clip), set()
    for epoch in range(EPOCHS):
        for number, samples in enumerate(data.batches(config, epoch)):
            made = make_batch(data.train, samples, tokenizer, config, 32, epoch=epoch)
            at = seen[epoch * per_epoch + number]
            assert at["videos"] == made.video_ids
            assert torch.equal(at["frames"], made.frames)
            views |= {
                (video, frame.numpy().tobytes()) for video, frame in zip(made.video_ids, made.frames, strict=True)
            }
    assert len(views) > len(data.train.videos)


# The step


def test_the_logit_scale_is_at_most_its_maximum_after_a_step(toy_run):
    config = toy_run(*REGULARISERS, "model.max_logit_scale=50")
    model, batch = built(config, torch.float32)
    model.clip.logit_scale.data.fill_(math.log(60))
    train_step(model, make_optimiser(model, config.train), batch, config, SINGLE, 0)
    assert float(model.clip.logit_scale.detach()) == pytest.approx(math.log(50))


@pytest.mark.parametrize("path", ["train.increments=dense", "train.increments=factorised", "train.chunk=4"])
def test_dropout_is_drawn_by_seed_and_step_at_the_rate_of_the_settings(toy_run, path):
    config = toy_run(*REGULARISERS, path, "model.dropout=0.5")
    model, batch = built(config)

    def loss(step=3, **changes):
        terms, _ = backward(model, batch, with_overrides(config, changes), SINGLE, step)
        return float(terms.share.detach())

    plain = loss()
    assert loss() == plain
    for other in (loss(step=4), loss(**{"train.seed": 7}), loss(**{"model.dropout": 0.4})):
        assert other != plain
    nothing = {"model.dropout": 0.0}
    assert loss(**nothing) == loss(step=4, **nothing)


@pytest.mark.parametrize("rule", ["adamw", "bert_adam"])
def test_both_optimisers_take_their_constants_from_the_settings(toy_run, rule):
    given = ("train.beta1=0.7", "train.beta2=0.8", "train.eps=1e-3", "train.weight_decay=0.3")
    config = toy_run(f"train.optimizer={rule}", *given, "train.lr_clip=0.25", "train.lr_new=0.5")
    model, _ = built(config, torch.float32)
    optimiser = make_optimiser(model, config.train)
    p, decayed = model.head.psi.mean_proj.weight, model.head.psi.mean_proj.weight.detach().clone().double()
    set_learning_rates(optimiser, 1.0)
    mean = square = torch.zeros(())
    for step, gradient in enumerate((1.0, -0.5), start=1):
        p.grad = torch.full_like(p, gradient)
        optimiser.step()
        mean, square = 0.7 * mean + 0.3 * gradient, 0.8 * square + 0.2 * gradient**2
        first, second = (1 - 0.7**step, 1 - 0.8**step) if rule == "adamw" else (1, 1)
        decayed = decayed - 0.5 * ((mean / first) / ((square / second) ** 0.5 + 1e-3) + 0.3 * decayed)
    torch.testing.assert_close(p.detach().double(), decayed, rtol=1e-4, atol=1e-5)
    assert {group["lr"] for group in optimiser.param_groups if group["name"].startswith("clip/")} == {0.25}


def test_adamw_decays_the_weights_of_linear_and_convolution_layers_and_nothing_else(toy_run):
    config = toy_run("train.freeze=[]", "model.query=residual_scaled")
    model, _ = built(config, torch.float32)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {
        names[id(p)]
        for group in parameter_groups(model, config.train)
        if group["weight_decay"]
        for p in group["params"]
    }
    matrices = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert decayed == matrices
    assert "clip.vision_model.embeddings.class_embedding" in names.values()


def gradients_after(model, batch, config, **more):
    optimiser = make_optimiser(model, config.train)
    values = train_step(model, optimiser, batch, config, SINGLE, 0, **more)
    return values, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_gradients_of_fp16_are_clipped_at_their_true_size(toy_run):
    config = toy_run(*REGULARISERS, "train.max_grad_norm=0.5")
    wanted_values, wanted = gradients_after(*built(config, torch.float32), config)
    half = with_overrides(config, {"train.precision": "fp16"})
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    values, got = gradients_after(*built(config, torch.float32), half, scaler=scaler)
    assert values["skipped"] == 0
    assert wanted_values["grad_norm"] > 0.5
    assert values["grad_norm"] == pytest.approx(wanted_values["grad_norm"], rel=0.05)
    assert float(wanted.norm()) == pytest.approx(0.5, rel=1e-3)
    assert float(got.norm()) == pytest.approx(0.5, rel=1e-3)
    assert torch.cosine_similarity(got, wanted, dim=0) > 0.98


def test_a_step_left_out_leaves_the_average_as_it_was(toy_run):
    config = toy_run(*REGULARISERS, "train.precision=fp16")
    model, batch = built(config, torch.float32)
    optimiser, ema = make_optimiser(model, config.train), Ema(model, 0.9)
    set_learning_rates(optimiser, 1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert not train_step(model, optimiser, batch, config, SINGLE, 0, scaler=scaler, ema=ema)["skipped"]
    before, average = ema.state_dict()["updates"], {k: v.clone() for k, v in ema.model_state().items()}
    broken_gradient(model)
    assert train_step(model, optimiser, batch, config, SINGLE, 1, scaler=scaler, ema=ema)["skipped"]
    assert ema.state_dict()["updates"] == before == 1
    assert all(torch.equal(value, average[name]) for name, value in ema.model_state().items())
