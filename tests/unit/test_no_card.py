"""What runs on CUDA, on tensors without data that refuse a tensor of the host, and where it waits for the card."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import transformers

from gare.config.tree import with_overrides
from gare.data.augment import TABLE, Draw, apply
from gare.data.batches import Batch
from gare.data.shards import ShardSet
from gare.diagnostics.measures import pair_diagnostics, step_diagnostics
from gare.diagnostics.pairs import split_state
from gare.evaluation.evaluate import evaluate
from gare.launch.dry_run.memory import _OneOf
from gare.model.clip_source import inspect_clip
from gare.model.gare import GareModel, outline
from gare.objective import SINGLE, regularisers
from gare.retrieval.build import write_index
from gare.retrieval.model import IndexModel
from gare.scoring.head import PairDropout
from gare.training import optimiser as optimisers
from gare.training import step as steps
from gare.training.numerics import numerics, prepare_towers
from gare.training.optimiser import freeze, make_optimiser, set_learning_rates
from gare.training.scaler_and_average import Extras
from gare.training.step import train_step
from tests.made_towers import TOWER, VISION
from tests.no_card import CUDA, WrongGeneratorError, no_card, onto_card

IB, TR, DIR = (f"objective.{n}" for n in ("information_bottleneck", "trust_region", "direction_diversity"))
NO_TERMS = tuple(f"{term}.weight=0" for term in (IB, TR, DIR))
READ = "gare/training/step.py:numbers values"
LISTED = "gare/scoring/increment/factorised.py:pairs_where nonzero"
FACTORISED = "train.increments=factorised"
ONCE, TWICE, THRICE = {READ: 1}, {READ: 1, LISTED: 1}, {READ: 1, LISTED: 2}

STEPS = {
    "as published": ((), ONCE),
    "no dropout, deterministic, TF32": (("model.dropout=0", "train.deterministic=true", "train.tf32=true"), ONCE),
    "words": (("model.context=words", "model.corrected=video", "model.gap_sign=-1"), ONCE),
    "text as query": (("model.query=text", "model.video_base=mean"), ONCE),
    "residual": (("model.query=residual", f"{IB}.anchor=text"), ONCE),
    "residual of a length": (("model.query=residual_scaled", f"{IB}.normalised=true"), ONCE),
    "no increment": (("model.increment=none", "data.known_positives=same_video"), ONCE),
    "X-Pool": (("model.head=xpool", "model.attention_heads=2", *NO_TERMS), ONCE),
    "mean pooling": (("model.head=mean_pool", "model.temporal_layers=0", *NO_TERMS), ONCE),
    "other terms": ((f"{IB}.reduction=mean", f"{TR}.form=smooth", f"{TR}.anchor=video", f"{DIR}.anchor=video"), ONCE),
    "orthogonality in blocks": ((f"{DIR}.form=orthogonality", "train.chunk=3", "data.words=8"), ONCE),
    "chunks in half precision": (("train.chunk=2", "train.precision=bf16", "train.checkpoint_activations=true"), ONCE),
    "scaled": (("train.precision=fp16", "train.ema=0.9"), ONCE),
    "scaled, by the released rule": (("train.precision=fp16", "train.optimizer=bert_adam"), ONCE),
    "frozen towers": (("train.freeze=[text_tower, image_tower]",), ONCE),
    "frozen embeddings": (("train.freeze=[patch_embedding, token_embedding]",), ONCE),
    "factorised": ((FACTORISED, f"{TR}.anchor=video", f"{DIR}.anchor=video"), THRICE),
    "factorised, no dropout": ((FACTORISED, "model.dropout=0", f"{IB}.normalised=true", f"{IB}.anchor=text"), THRICE),
    "factorised words": ((FACTORISED, "model.context=words", f"{IB}.anchor=text", f"{DIR}.anchor=video"), THRICE),
    "factorised, text as query": ((FACTORISED, "model.query=text", "model.corrected=video"), TWICE),
    "factorised in blocks": ((FACTORISED, "model.context=words", "model.video_base=mean", "train.chunk=3"), THRICE),
}
"""Settings that change what a step computes -> where it waits for the card, and how often."""


@pytest.fixture(scope="module")
def architectures(toy_clip):
    text = TOWER | {"vocab_size": 300, "max_position_embeddings": 16}
    ids = {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    both = {"text_config": text | ids, "vision_config": VISION}
    return {
        "clip": inspect_clip(str(toy_clip)).architecture,
        "siglip": transformers.SiglipConfig(**both),
        "metaclip_2": transformers.MetaClip2Config(**both, projection_dim=64),
    }


def on_the_card(architecture, config):
    model = onto_card(outline(architecture, config.model, device="cpu"))
    freeze(model, config.train)
    prepare_towers(model, config.train)
    return model


def batch_for(model, config, rows=4):
    frames, words, side = config.data.frames, config.data.words, model.image_size
    return Batch(
        frames=torch.zeros(rows, frames, 3, side, side, dtype=torch.uint8, device=CUDA),
        frame_mask=torch.ones(rows, frames, dtype=torch.bool, device=CUDA),
        token_ids=torch.zeros(rows, words, dtype=torch.int64, device=CUDA),
        token_mask=torch.ones(rows, words, dtype=torch.bool, device=CUDA),
        video_ids=["v"] * rows,
        groups=None if config.data.known_positives == "none" else torch.zeros(rows, dtype=torch.int64, device=CUDA),
        valid=[frames] * rows,
    )


def steps_on_the_card(architecture, config, world=SINGLE):
    """Take a step; return where it waited for the card."""
    with no_card() as waits, numerics(config):
        model = on_the_card(architecture, config)
        optimiser, extras = make_optimiser(model, config.train), Extras(model, config)
        set_learning_rates(optimiser, 1.0)
        waits.places.clear()
        batch = batch_for(model, config)
        values = train_step(model, optimiser, batch, config, world, 0, scaler=extras.scaler, ema=extras.ema)
        moved = [p for group in optimiser.param_groups for p in group["params"]]
        assert all(p.grad.device == CUDA == p.device for p in moved)
        assert {value.device for p in moved for value in optimiser.state[p].values()} == {CUDA}
        assert "loss" in values
    return Counter(waits.places)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_computes_on_the_card_and_waits_for_it_once(architectures, toy_run, monkeypatch, name):
    settings, waited = STEPS[name]
    if "blocks" in name:
        for module in ("gare.scoring.head", "gare.objective.increments"):
            monkeypatch.setattr(f"{module}.BLOCK_NUMBERS", 2 * 4 * 64)
    assert steps_on_the_card(architectures["clip"], toy_run(*settings)) == waited


@pytest.mark.parametrize("kind", ["siglip", "metaclip_2"])
def test_the_towers_of_every_family_compute_on_the_card(architectures, toy_run, kind):
    settings = toy_run("train.checkpoint_activations=true")
    assert steps_on_the_card(architectures[kind], settings) == ONCE


@pytest.mark.parametrize(
    "settings", [(f"{DIR}.anchor=video",), (FACTORISED, f"{TR}.form=smooth", f"{TR}.anchor=video")]
)
def test_one_of_two_ranks_computes_on_the_card(architectures, toy_run, settings):
    waited = THRICE if FACTORISED in settings else ONCE
    assert steps_on_the_card(architectures["clip"], toy_run(*settings), _OneOf(2)) == waited


READS = ("gare/retrieval/", "gare/evaluation/", "gare/scoring/", "gare/model/gare.py:__init__", "gare/diagnostics/")


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("model.context=words", "model.corrected=video"),
        ("model.query=text", "model.video_base=mean"),
        ("model.query=residual_scaled",),
        ("model.increment=none",),
        ("model.head=xpool", *NO_TERMS),
        ("model.head=mean_pool", *NO_TERMS),
    ],
    ids=lambda settings: " ".join(settings[:2]) or "as published",
)
def test_evaluation_index_search_and_diagnostics_compute_on_the_card(
    architectures, toy_run, toy_clip, tmp_path, settings
):
    config = toy_run(*settings)
    tokenizer = GareModel.from_clip(toy_clip, config.model).tokenizer
    shards = ShardSet(config.runtime.shards)
    split = shards.split("test")
    with no_card() as waits:
        model = onto_card(outline(architectures["clip"], config.model, device="cpu")).eval()
        model.tokenizer = tokenizer
        waits.places.clear()
        assert "t2v/R@1" in evaluate(model, tokenizer, split, config).metrics
        index = write_index(tmp_path / "index", IndexModel(model, tokenizer, config, "model", "0" * 64), shards, "test")
        assert len(index.search("a red square", 3)) == 3
        assert len(index.like("test0", 2)) == 2
        if config.model.makes_increments:
            state = split_state(model, tokenizer, split, config, 4)
            assert pair_diagnostics(state).keys()
            assert step_diagnostics(state, state).keys()
    assert [
        p
        for p in waits.places
        if not p.startswith((*READS, "gare/model/gare.py:_places", "gare/data/batches.py:encode_batch copy from"))
    ] == []
    # Vectors stay on the card from the towers to the scores: the scores come to the host, and the index's records.
    scores = [p for p in waits.places if p.startswith("gare/evaluation/") and p.endswith("to the host")]
    assert scores == ["gare/evaluation/scorer.py:_score copy to the host"]


@pytest.mark.parametrize("name", TABLE)
def test_an_augmentation_computes_on_the_card(name):
    pytest.importorskip("kornia")
    with no_card():
        clip = torch.zeros(2, 3, 16, 16, dtype=torch.uint8, device=CUDA)
        assert apply(clip, [Draw(name, 0.7, 1)]).device == CUDA


def on_the_host(monkeypatch):
    """A constant of the host in the forward pass."""
    true = GareModel.normalise
    monkeypatch.setattr(GareModel, "normalise", lambda model, x: true(model, x) * torch.ones(3, 1, 1))


def in_the_backward_pass(monkeypatch):
    true = regularisers._LogMeanCloseness.backward

    def backward(ctx, *given):
        gradient, none = true(ctx, *given)
        return gradient * torch.ones(gradient.shape[-1]), none

    monkeypatch.setattr(regularisers._LogMeanCloseness, "backward", staticmethod(backward))


def in_the_optimiser(monkeypatch):
    def zeros(like, **_):
        return torch.zeros(like.shape)

    monkeypatch.setattr(optimisers.torch, "zeros_like", zeros)


def in_the_draws(monkeypatch):
    def mask(dropout, like):
        generator = torch.Generator().manual_seed(dropout.seed)
        return torch.rand(like.shape, generator=generator, device=like.device)

    monkeypatch.setattr(PairDropout, "mask", mask)


@pytest.mark.parametrize(
    ("fault", "error", "settings"),
    [
        (on_the_host, "same device", ()),
        (in_the_backward_pass, "same device", ()),
        (in_the_optimiser, "same device", ("train.optimizer=bert_adam",)),
        (in_the_draws, "generator of another device", ()),
    ],
)
def test_a_tensor_of_the_host_in_a_step_is_found(architectures, toy_run, monkeypatch, fault, error, settings):
    fault(monkeypatch)
    with pytest.raises((RuntimeError, WrongGeneratorError), match=error):
        steps_on_the_card(architectures["clip"], toy_run(*settings))


def test_a_hidden_wait_in_a_step_is_found(architectures, toy_run, monkeypatch):
    config = toy_run()
    monkeypatch.setattr(steps, "numbers", lambda *named: [{k: float(v) for k, v in part.items()} for part in named])
    true = GareModel.encode_clips
    monkeypatch.setattr(GareModel, "encode_clips", lambda model, clips, mask, _: true(model, clips, mask))
    waited = steps_on_the_card(architectures["clip"], with_overrides(config, {"train.ema": 0.9}))
    assert waited["gare/model/gare.py:_places nonzero"] == 1
    assert sum(waited.values()) > 5
