"""The memory a step is said to need, held against what the same step takes with real tensors."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gare.config.tree import load_config
from gare.data.batches import Batch
from gare.launch.dry_run.memory import _OneOf, memory_of_step
from gare.model.clip_config import config_of
from gare.model.gare import GareModel
from gare.model.towers import model_of, new_model
from gare.objective import SINGLE, increments
from gare.scoring import head as pair_heads
from gare.training.encoding import encode
from gare.training.numerics import prepare_towers
from gare.training.optimiser import freeze, make_optimiser
from gare.training.step import backward, pair_loss, train_step

SMALL = ("data.frames=5", "data.words=20", "prepare.max_frames=5", "model.temporal_layers=2", "train.global_batch=16")
WORDS = ("model.context=words", "model.corrected=video")
FACTORISED = "train.increments=factorised"


def tower(width, layers):
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
    }


def architecture(*, image=128, text=128, dim=128, layers=2, side=32, patch=8):
    texts = {"vocab_size": 300, "max_position_embeddings": 40, "projection_dim": dim, "eos_token_id": 299}
    images = {"image_size": side, "patch_size": patch, "projection_dim": dim}
    values = {
        "model_type": "clip",
        "text_config": tower(text, layers) | texts | {"bos_token_id": 298, "pad_token_id": 0},
        "vision_config": tower(image, layers) | images,
        "projection_dim": dim,
    }
    return config_of(values, "the test")


def real(sizes, config, workers=1):
    """A model, and a batch for one of ``workers`` in which every clip is full."""
    torch.manual_seed(0)
    weights = {name: 0.02 * torch.randn(tensor.shape) for name, tensor in new_model(sizes).state_dict().items()}
    model = GareModel(model_of(sizes, weights), config.model)
    freeze(model, config.train)
    rows, data, side = config.train.global_batch // workers, config.data, model.image_size
    ids = torch.randint(1, 298, (rows, data.words))
    ids[:, -1] = 299
    frames = torch.randint(0, 255, (rows, data.frames, 3, side, side), dtype=torch.uint8)
    mask = torch.ones(rows, data.frames, dtype=torch.bool)
    return model.train(), Batch(frames, mask, ids, torch.ones_like(ids, dtype=torch.bool), ["v"] * rows)


def kept(model, batch, config, ranks):
    """Bytes of the storages that a forward pass keeps for the backward pass, the model's own aside."""
    own = {t.untyped_storage().data_ptr() for t in itertools.chain(model.parameters(), model.buffers())}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        terms = pair_loss(model, encode(model, batch, config), batch, config, ranks, 0)
    del terms
    return sum(storage.nbytes() for storage in found.values())


def allocated(function):
    """The most bytes that torch's CPU allocator held at once for what ``function`` asked of it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def parts(memory):
    return memory.text_tower + memory.image_tower + memory.temporal + memory.pairs


NO_TERMS = [f"objective.{term}.weight=0" for term in ("information_bottleneck", "trust_region", "direction_diversity")]
SETTINGS = [
    (),
    (FACTORISED,),
    WORDS,
    (*WORDS, FACTORISED),
    ("model.increment=none",),
    ("model.query=residual_scaled",),
    ("model.video_base=mean", "model.dropout=0.0"),
    ("model.head=xpool", "model.attention_heads=2", *NO_TERMS),
    ("model.head=mean_pool", "model.temporal_layers=0", *NO_TERMS),
    ("train.freeze=[]",),
    ("objective.direction_diversity.anchor=video", "objective.information_bottleneck.anchor=text"),
    ("objective.direction_diversity.form=orthogonality", FACTORISED),
    ("train.global_batch=4", "data.frames=2"),
]
SIZES = [{"image": 64, "text": 64, "dim": 64, "side": 64}, {"layers": 3, "patch": 4}, {"text": 192, "dim": 64}]


@pytest.mark.parametrize(("sizes", "settings"), [*(({}, s) for s in SETTINGS), *((s, ()) for s in SIZES)])
def test_what_is_kept_and_the_peak_are_those_of_the_real_step(sizes, settings):
    config, sizes = load_config(None, [*SMALL, *settings]), architecture(**sizes)
    estimate = memory_of_step(sizes, config, workers=1)
    model, batch = real(sizes, config)
    assert parts(estimate) == pytest.approx(kept(model, batch, config, SINGLE), rel=0.01)

    def step():
        torch.autograd.backward([pair_loss(model, encode(model, batch, config), batch, config, SINGLE, 0).share])

    # The update holds the gradients and, with AdamW on a GPU, as much again; it is the peak of a very small batch.
    peak = max(allocated(step), 2 * estimate.gradients)
    assert estimate.peak - estimate.optimiser - estimate.batches - estimate.weights == pytest.approx(peak, rel=0.02)


def test_blocks_that_are_made_again_are_not_counted_as_kept():
    """Above BLOCK_NUMBERS the regularisers keep nothing of their blocks."""
    config = load_config(None, [*SMALL, "train.global_batch=300", "data.frames=1", "data.words=3", FACTORISED])
    sizes = architecture(image=64, text=64, layers=1, side=8)
    model, batch = real(sizes, config)
    estimate = memory_of_step(sizes, config, workers=1)
    assert parts(estimate) == pytest.approx(kept(model, batch, config, SINGLE), rel=0.01)
    assert estimate.pairs < 300**3 * 4  # the cosines of all videos of every text would be this


@pytest.mark.parametrize("settings", [(), (FACTORISED,), WORDS])
def test_a_worker_holds_its_rows_against_all_videos(settings):
    config, sizes = load_config(None, [*SMALL, *settings]), architecture()
    estimate = memory_of_step(sizes, config, workers=4)
    model, batch = real(sizes, config, workers=4)
    assert estimate.rows == 4
    assert parts(estimate) == pytest.approx(kept(model, batch, config, _OneOf(4)), rel=0.01)
    assert estimate.image_tower == memory_of_step(sizes, config, workers=1).image_tower / 4


@pytest.mark.parametrize("optimizer", ["adamw", "bert_adam"])
def test_weights_gradients_and_optimiser_are_what_is_there_after_a_step(optimizer):
    config, sizes = load_config(None, [*SMALL, f"train.optimizer={optimizer}"]), architecture()
    estimate = memory_of_step(sizes, config, workers=1)
    model, batch = real(sizes, config)
    optimiser = make_optimiser(model, config.train)
    train_step(model, optimiser, batch, config, SINGLE, 0)

    def size(tensors):
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    assert estimate.weights == size([*model.parameters(), *model.buffers()])
    assert estimate.gradients == size(p.grad for p in model.parameters())
    state = [t for values in optimiser.state.values() for t in values.values() if t.ndim]
    assert estimate.optimiser == pytest.approx(size(state), rel=0.001)
    assert estimate.peak >= estimate.weights + estimate.gradients + estimate.optimiser


@pytest.mark.parametrize(
    "settings",
    [
        ("train.chunk=5",),
        ("train.chunk=5", FACTORISED),
        ("train.checkpoint_activations=true",),
        ("train.precision=bf16",),
        ("train.chunk=6", "train.precision=bf16", "train.checkpoint_activations=true"),
    ],
)
def test_the_peak_follows_what_saves_memory(settings):
    config, sizes = load_config(None, [*SMALL, *settings]), architecture(layers=4)
    estimate = memory_of_step(sizes, config, workers=1)
    model, batch = real(sizes, config)
    prepare_towers(model, config.train)
    peak = allocated(lambda: backward(model, batch, config, SINGLE, 0))
    found = estimate.peak - estimate.optimiser - estimate.batches - estimate.weights
    assert found == pytest.approx(max(peak, 2 * estimate.gradients), rel=0.03)
    assert estimate.peak < 0.9 * memory_of_step(sizes, load_config(None, SMALL), workers=1).peak


def test_pairs_in_blocks_hold_the_increments_and_little_more(monkeypatch):
    """As at a batch of 1,024, by smaller blocks and vectors."""
    monkeypatch.setattr(pair_heads, "BLOCK_NUMBERS", 2**19)
    monkeypatch.setattr(increments, "BLOCK_NUMBERS", 2**19)
    settings = [*SMALL, "train.global_batch=96", "data.frames=1", "data.words=3"]
    config = load_config(None, [*settings, "train.chunk=8"])
    sizes = architecture(image=64, text=64, dim=256, layers=1, side=8)
    model, batch = real(sizes, config)
    at_once = allocated(lambda: backward(model, batch, load_config(None, settings), SINGLE, 0))
    in_blocks = allocated(lambda: backward(model, batch, config, SINGLE, 0))
    increments_bytes = 96 * 96 * 256 * 4
    assert in_blocks < 5 * increments_bytes < 12 * increments_bytes < at_once


def test_an_average_and_batches_read_ahead_are_counted():
    plain, more = (
        memory_of_step(architecture(), load_config(None, [*SMALL, *settings]), workers=1)
        for settings in (("runtime.read_ahead=0",), ("train.ema=0.9", "runtime.read_ahead=3"))
    )
    assert more.optimiser == plain.optimiser + plain.gradients
    assert more.batches == 4 * plain.batches == 4 * 16 * 5 * 3 * 32 * 32
    assert more.peak - plain.peak == plain.gradients + 3 * plain.batches


def test_a_large_model_is_counted_without_being_allocated():
    from gare.model.clip_source import inspect_clip

    config = load_config(None, [])
    memory = memory_of_step(inspect_clip("openai/clip-vit-base-patch32").architecture, config, workers=1)
    # A block keeps 20 vectors of its width for each of 50 patches, and the LayerNorms around the blocks two more.
    blocks = (20 * 12 + 2) * 768 * 50 * 128 * 12 * 4
    assert memory.image_tower == pytest.approx(blocks, rel=0.01)
    assert memory.peak > blocks
