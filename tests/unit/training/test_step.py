"""One step: the same over pieces and over ranks, in half precision, with frozen parts and with averaged weights."""

from __future__ import annotations

import itertools

import pytest
import torch

from gare.common.errors import RunError
from gare.config.tree import with_overrides
from gare.data.batches import make_batch
from gare.data.shards import ShardSet
from gare.model import GareModel
from gare.objective import SINGLE
from gare.scoring import head as pair_heads
from gare.training.encoding import encode
from gare.training.numerics import prepare_towers
from gare.training.optimiser import freeze, make_optimiser, set_learning_rates
from gare.training.scaler_and_average import Ema
from gare.training.step import backward, train_step
from tests.ranks import on_ranks

REGULARISERS = (
    "objective.information_bottleneck.weight=0.01",
    "objective.trust_region.weight=1.0",
    "objective.trust_region.bound=0.01",
    "objective.direction_diversity.weight=0.5",
    "train.global_batch=8",
)
SAMPLES = [(video, video % 2) for video in range(8)]


def built(config, dtype=torch.float64):
    """The model of the settings and a batch of eight pairs."""
    torch.manual_seed(0)
    model = GareModel.from_clip(config.model.clip, config.model).to(dtype)
    freeze(model, config.train)
    split = ShardSet(config.runtime.shards).split("train")
    return model, make_batch(split, SAMPLES, model.tokenizer, config, model.image_size)


def of_rank(batch, own):
    parts = {name: getattr(batch, name)[own] for name in ("frames", "frame_mask", "token_ids", "token_mask")}
    return type(batch)(**parts, video_ids=batch.video_ids[own])


def gradients(model, batch, config, ranks=SINGLE):
    model.zero_grad(set_to_none=True)
    terms, _ = backward(model, batch, config, ranks, step=3)
    values = {name: float(value) for name, value in terms.totals(ranks).items()}
    return values, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(got, wanted, relative):
    """Equal but for rounding; gradients that are zero in theory (of key biases) are measured by the largest one."""
    assert got.keys() == wanted.keys()
    largest = max(float(value.abs().max()) for value in wanted.values())
    for name, value in wanted.items():
        error = float((got[name] - value).abs().max() / value.abs().max().clamp(min=1e-3 * largest))
        assert error < relative, (name, error)


# Pieces


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
@pytest.mark.parametrize("increments", ["dense", "factorised"])
@pytest.mark.parametrize("context", ["frames", "words"])
def test_a_batch_in_pieces_gives_the_gradients_of_the_whole(toy_run, chunk, increments, context):
    config = toy_run(*REGULARISERS, f"train.increments={increments}", f"model.context={context}")
    model, batch = built(config)
    values, wanted = gradients(model.train(), batch, config)
    pieces = with_overrides(config, {"train.chunk": chunk})
    got_values, got = gradients(model, batch, pieces)
    assert got_values == pytest.approx(values, rel=1e-12)
    assert_close(got, wanted, 1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("model.context=words", "model.corrected=video"),
        ("model.query=residual_scaled",),
        ("model.increment=none",),
        ("objective.direction_diversity.anchor=video", "objective.information_bottleneck.anchor=text"),
        ("objective.information_bottleneck.normalised=true", "objective.direction_diversity.form=orthogonality"),
        ("objective.trust_region.form=smooth", "objective.trust_region.anchor=video"),
    ],
)
def test_pairs_in_blocks_give_the_gradients_of_the_whole(toy_run, monkeypatch, settings):
    config = toy_run(*REGULARISERS, *settings, "model.dropout=0.2")
    model, batch = built(config)
    values, wanted = gradients(model.train(), batch, config)
    monkeypatch.setattr(pair_heads, "BLOCK_NUMBERS", 3 * 8 * model.dim)
    seen = []
    model.head.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    got_values, got = gradients(model, batch, with_overrides(config, {"train.chunk": 5}))
    assert seen[:3] == [3, 3, 2]
    assert sorted(seen[3:]) == [2, 3, 3]  # once more each, in the backward pass
    assert got_values == pytest.approx(values, rel=1e-12)
    assert_close(got, wanted, 1e-9)


def test_pieces_hold_fewer_activations_at_a_time(toy_run, monkeypatch):
    config = toy_run(*REGULARISERS, "train.chunk=3")
    model, batch = built(config)
    seen = []
    true = model.encode_texts
    monkeypatch.setattr(
        model, "encode_texts", lambda ids, mask: seen.append((len(ids), torch.is_grad_enabled())) or true(ids, mask)
    )
    gradients(model.train(), batch, config)
    assert seen == [(3, False), (3, False), (2, False), (3, True), (3, True), (2, True)]


def test_a_clip_with_dropout_draws_the_same_in_both_passes(toy_run, monkeypatch):
    config = toy_run(*REGULARISERS, "train.chunk=4")
    model, batch = built(config)
    for layer in [*model.clip.text_model.modules(), *model.clip.vision_model.modules()]:
        if hasattr(layer, "dropout") and isinstance(layer.dropout, float):
            layer.dropout = 0.5
    seen = []

    def watched(true):
        def encode(*given):
            made = true(*given)
            seen.append((torch.is_grad_enabled(), (made if isinstance(made, torch.Tensor) else made[1]).detach()))
            return made

        return encode

    for name in ("encode_texts", "encode_clips"):
        monkeypatch.setattr(model, name, watched(getattr(model, name)))
    torch.manual_seed(1)
    gradients(model.train(), batch, config)
    after = torch.rand(1)
    first, second = ([made for grad, made in seen if grad is now] for now in (False, True))
    assert len(first) == len(second) == 4  # texts and clips of two pieces
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours, theirs)
    # Dropout is at work, and the second pass leaves the draws where the first left them.
    torch.manual_seed(1)
    parts = [encode(model, batch, config, rows) for rows in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(parts[0].words, first[0])
    assert not torch.equal(encode(model, batch, config, slice(0, 4)).words, first[0])


# Ranks


def steps(ranks, config, dtype, count=20):
    """The trained weights and the losses of some steps, each over another order of the pairs."""
    model, batch = built(config, dtype)
    optimiser = make_optimiser(model, config.train)
    set_learning_rates(optimiser, 1.0)
    own = ranks.own(8 // ranks.size)
    losses = []
    for step in range(count):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(step)).tolist()
        mixed = of_rank(batch, slice(None))
        shuffled = {name: getattr(mixed, name)[order] for name in ("frames", "frame_mask", "token_ids", "token_mask")}
        now = type(batch)(**shuffled, video_ids=[batch.video_ids[n] for n in order])
        losses.append(train_step(model, optimiser, of_rank(now, own), config, ranks, step)["loss"])
    return losses, {name: p.detach() for name, p in model.named_parameters()}


def settings(config):
    for side, chunk in (("text", None), ("video", 1)):
        yield with_overrides(config, {"model.corrected": side, "train.chunk": chunk})


def off(ranks, config):
    """What twenty steps make that is not as one process has it."""
    found = []
    for number, (one, dtype) in enumerate(itertools.product(settings(config), [torch.float64, torch.float32])):
        wanted_losses, wanted = steps(SINGLE, with_overrides(one, {"train.chunk": None}), dtype)
        losses, got = steps(ranks, one, dtype)
        limit, whole = (1e-10, 1e-10) if dtype == torch.float64 else (1e-4, 1e-5)
        # A key's bias adds the same to all of a query's logits: its gradient is rounding, which Adam enlarges.
        names = [name for name in wanted if not name.endswith("k_proj.bias")]
        for name in names:
            error = float((got[name] - wanted[name]).norm() / wanted[name].norm().clamp(min=1e-6))
            if not error <= limit:
                found.append(f"case {number}: {name} is off by {error}")
        ours, theirs = (torch.cat([weights[name].flatten() for name in names]) for weights in (got, wanted))
        if not float((ours - theirs).norm() / theirs.norm()) <= whole:
            found.append(f"case {number}: the weights are off by more than {whole}")
        error = max(abs(a - b) / abs(b) for a, b in zip(losses, wanted_losses, strict=True))
        if not error <= whole:
            found.append(f"case {number}: a loss is off by {error}")
    return found


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_twenty_steps_over_ranks_give_the_weights_of_one_process(toy_run, size):
    config = toy_run(*REGULARISERS, "model.dropout=0.2")
    assert on_ranks(size, off, config) == [[]] * size


def broken_frames(model):
    """As a broken video would: the third pair's."""
    true = model.encode_clips
    model.encode_clips = lambda *given: true(*given) * torch.tensor([1.0, 1.0, float("nan"), 1.0])[:, None, None]


def broken_scale(model):
    model.clip.logit_scale.data.fill_(float("nan"))


def broken_gradient(model):
    return model.head.psi.mean_proj.weight.register_hook(lambda gradient: gradient * float("inf"))


def poisoned(ranks, config):
    """What this rank says of each poison on rank 1, and whether that changed nothing."""
    own, said = ranks.own(4), {}
    for poison in (broken_frames, broken_scale, broken_gradient):
        model, batch = built(config, torch.float32)
        before = {name: p.detach().clone() for name, p in model.named_parameters() if name != "clip.logit_scale"}
        if ranks.rank == 1:
            poison(model)
        with pytest.raises(RunError) as caught:
            train_step(model, make_optimiser(model, config.train), of_rank(batch, own), config, ranks, 5)
        same = all(torch.equal(model.get_parameter(name), value) for name, value in before.items())
        said[poison.__name__] = str(caught.value), same
    return {**said, "fp16": overflowing(ranks, config, own)}


def overflowing(ranks, config, own):
    """What two steps say whose gradient overflows on rank 1 in the first, and whether that changed nothing."""
    config = with_overrides(config, {"train.precision": "fp16"})
    model, batch = built(config, torch.float32)
    optimiser, scaler = make_optimiser(model, config.train), torch.amp.GradScaler("cpu", init_scale=8.0)
    set_learning_rates(optimiser, 1.0)
    before = [p.detach().clone() for p in model.parameters()]
    hook = broken_gradient(model) if ranks.rank == 1 else None
    first = train_step(model, optimiser, of_rank(batch, own), config, ranks, 5, scaler=scaler)
    same = all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    if hook is not None:
        hook.remove()
    second = train_step(model, optimiser, of_rank(batch, own), config, ranks, 6, scaler=scaler)
    moved = any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    return f"{first['skipped']} {first['loss_scale']} {second['skipped']} {second['loss_scale']}", same and moved


def test_what_is_not_finite_on_one_rank_stops_all_of_them_and_is_named(toy_run):
    config = toy_run(*REGULARISERS)
    said = on_ranks(2, poisoned, config)
    assert all(right for one in said for _, right in one.values())
    videos = built(config)[1].video_ids
    own = ", ".join(videos[4:])
    for poison, wanted in {
        "broken_frames": f"the videos whose embeddings are not finite, on worker 1: {videos[6]}.",
        "broken_scale": f"the videos whose scores are not finite, on worker 1: {own}.",
        "broken_gradient": f"the videos whose gradients are not finite, on worker 1: {own}.",
    }.items():
        first, second = (one[poison][0] for one in said)
        assert first == second
        assert "nothing was updated" in first
        assert first.endswith(wanted)
    # An overflow of fp16 is no divergence: both ranks leave the step out, with half the scale from then on.
    assert [one["fp16"][0] for one in said] == ["1.0 8.0 0.0 4.0"] * 2


def test_the_norm_of_each_group_is_told_and_makes_up_the_whole(toy_run):
    config = toy_run(*REGULARISERS)
    model, batch = built(config)
    values = train_step(model, make_optimiser(model, config.train), batch, config, SINGLE, 0)
    groups = {name: value for name, value in values.items() if name.startswith("grad_norm/")}
    assert list(groups) == [f"grad_norm/{part}/{kind}" for part in ("new", "clip") for kind in ("no_decay", "decay")]
    assert sum(value**2 for value in groups.values()) == pytest.approx(values["grad_norm"] ** 2)
    head = torch.stack([p.grad.norm() for n, p in model.named_parameters() if not n.startswith("clip.")]).norm()
    scale = config.train.max_grad_norm / values["grad_norm"]  # gradients are clipped by now
    assert float(head) == pytest.approx(
        scale * (groups["grad_norm/new/decay"] ** 2 + groups["grad_norm/new/no_decay"] ** 2) ** 0.5, rel=1e-4
    )


# Precision


def test_half_precision_is_in_the_towers_only_and_near_the_whole(toy_run):
    config = toy_run(*REGULARISERS)
    model, batch = built(config, torch.float32)
    values, wanted = gradients(model.train(), batch, config)
    seen = {}
    model.clip.vision_model.encoder.layers[0].mlp.fc1.register_forward_hook(lambda *a: seen.update(tower=a[2].dtype))
    model.head.psi.mean_proj.register_forward_hook(lambda *a: seen.update(head=a[2].dtype))
    got_values, got = gradients(model, batch, with_overrides(config, {"train.precision": "bf16"}))
    assert seen == {"tower": torch.bfloat16, "head": torch.float32}
    assert got_values["loss"] == pytest.approx(values["loss"], rel=0.05)
    assert all(gradient.dtype == torch.float32 for gradient in got.values())
    flat, other = (torch.cat([g[name].flatten() for name in wanted]) for g in (wanted, got))
    assert torch.cosine_similarity(flat, other, dim=0) > 0.98


def test_an_overflow_of_fp16_leaves_the_step_out_and_lowers_the_scale(toy_run):
    config = with_overrides(toy_run(*REGULARISERS), {"train.precision": "fp16"})
    model, batch = built(config, torch.float32)
    optimiser = make_optimiser(model, config.train)
    set_learning_rates(optimiser, 1.0)
    scaler = torch.amp.GradScaler("cpu")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    values = train_step(model, optimiser, batch, config, SINGLE, 0, scaler=scaler)
    while values["skipped"]:
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        scale = values["loss_scale"]
        values = train_step(model, optimiser, batch, config, SINGLE, 0, scaler=scaler)
        assert values["loss_scale"] <= scale
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    scaler.update(float("1e38"))
    assert train_step(model, optimiser, batch, config, SINGLE, 1, scaler=scaler)["skipped"] == 1


def test_encoding_layers_again_in_the_backward_pass_gives_the_same_gradients(toy_run):
    config = toy_run(*REGULARISERS)
    model, batch = built(config)
    _, wanted = gradients(model.train(), batch, config)
    prepare_towers(model, with_overrides(config, {"train.checkpoint_activations": True}).train)
    assert model.clip.vision_model.encoder.gradient_checkpointing
    assert_close(gradients(model, batch, config)[1], wanted, 1e-12)


@pytest.mark.slow
def test_compiled_towers_give_the_same_gradients_and_names(toy_run):
    config = toy_run(*REGULARISERS)
    model, batch = built(config, torch.float32)
    _, wanted = gradients(model.train(), batch, config)
    names = list(model.state_dict())
    prepare_towers(model, with_overrides(config, {"train.compile": True}).train)
    assert_close(gradients(model, batch, config)[1], wanted, 1e-3)
    assert list(model.state_dict()) == names


# Frozen parts and averages


@pytest.mark.parametrize(
    ("parts", "frozen", "free"),
    [
        ("[]", [], ["clip.vision_model.embeddings.patch_embedding.weight"]),
        ("[patch_embedding]", ["clip.vision_model.embeddings.patch_embedding.weight"], ["clip.logit_scale"]),
        ("[token_embedding]", ["clip.text_model.embeddings.token_embedding.weight"], ["clip.text_projection.weight"]),
        ("[text_tower]", ["clip.text_model.", "clip.text_projection."], ["clip.vision_model.", "head.", "temporal."]),
        ("[image_tower]", ["clip.vision_model.", "clip.visual_projection."], ["clip.text_model.", "clip.logit_scale"]),
    ],
)
def test_frozen_parts_do_not_move_and_the_others_do(toy_run, parts, frozen, free):
    config = toy_run(*REGULARISERS, f"train.freeze={parts}", "train.lr_clip=0.01", "train.weight_decay=0.5")
    model, batch = built(config, torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = make_optimiser(model, config.train)
    set_learning_rates(optimiser, 1.0)
    train_step(model, optimiser, batch, config, SINGLE, 0)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not [name for name in moved for start in frozen if name.startswith(start)]
    for start in free:
        assert any(name.startswith(start) for name in moved), start


def test_the_average_follows_its_formula_and_leaves_the_weights_alone(toy_run):
    config = toy_run(*REGULARISERS)
    model, batch = built(config, torch.float32)
    optimiser = make_optimiser(model, config.train)
    set_learning_rates(optimiser, 1.0)
    ema = Ema(model, 0.3)
    name = "clip.text_projection.weight"
    expected = model.get_parameter(name).detach().clone()
    for step in range(6):
        train_step(model, optimiser, batch, config, SINGLE, step, ema=ema)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.get_parameter(name).detach()
    raw = model.get_parameter(name).detach().clone()
    with ema.in_place():
        torch.testing.assert_close(model.get_parameter(name).detach(), expected)
    assert torch.equal(model.get_parameter(name), raw)
    torch.testing.assert_close(ema.model_state()[name], expected)


def test_a_run_with_an_average_resumes_bit_for_bit_and_saves_what_it_evaluated(toy_run):
    from gare.launch.local import fit_local
    from gare.model import load_model
    from gare.runs.run import Run
    from gare.training.loop import train

    more = ("train.ema=0.5", "train.epochs=2", "train.precision=bf16")
    whole = fit_local(toy_run(*more, output="whole"), quiet=True)

    class Killed(Exception):  # noqa: N818
        pass

    def kill(report):
        raise Killed

    config = toy_run(*more, output="parts")
    with pytest.raises(Killed):
        train(Run.open(config), SINGLE, kill)
    again = train(Run.open(config), SINGLE, lambda _: None)
    ours, theirs = (load_model(summary.best).state_dict() for summary in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert again.best_metrics == whole.best_metrics


def test_the_groups_gradients_add_up_to_the_whole_one(toy_run):
    config = toy_run(*REGULARISERS)
    model, batch = built(config, torch.float32)
    values = train_step(model, make_optimiser(model, config.train), batch, config, SINGLE, 0)
    groups = [value for name, value in values.items() if name.startswith("grad_norm/")]
    assert len(groups) == 4
    assert sum(value**2 for value in groups) ** 0.5 == pytest.approx(values["grad_norm"], rel=1e-5)
