"""Stages that compare numbers: with the released code's, between devices, and between ways to compute the same step."""

from __future__ import annotations

import copy
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gare.config import Config, ModelConfig
from gare.data.batches import Batch
from gare.model import GareModel
from gare.objective import SINGLE, World
from gare.scoring.head import PairDropout
from gare.scoring.increment.head import GareHead
from gare.training.encoding import encode
from gare.training.numerics import numerics, prepare_towers
from gare.training.optimiser import freeze, make_optimiser, set_learning_rates
from gare.training.scaler_and_average import Extras
from gare.training.step import backward, train_step
from gpu_check.report import Found, Skipped, within
from gpu_check.setting import noise, settings, small_model

GOLDEN = ("head_square", "head_rect", "head_trust_active", "head_trust_truncated")
MOST_STEPS = 20
EXACT, ROUNDED = 1e-4, 0.1
"""Largest share of a gradient's length by which a step may differ: in float32, and in half precision."""

PATHS = {
    "again": ((), EXACT),
    "chunk": (("train.chunk=4",), EXACT),
    "average": (("train.ema=0.9",), EXACT),
    "layers encoded again": (("train.checkpoint_activations=true",), EXACT),
    "attention without fused kernels": ((), EXACT),
    "bf16": (("train.precision=bf16",), ROUNDED),
    "fp16, scaled": (("train.precision=fp16",), ROUNDED),
    "compiled": (("train.compile=true",), EXACT),
}


def released(device: torch.device) -> Found:
    """Score the golden tensors of the released code, which lie in the folder that GARE_FIXTURES names."""
    folder = Path(os.environ.get("GARE_FIXTURES", "")) / "parity"
    if not os.environ.get("GARE_FIXTURES") or not folder.is_dir():
        raise Skipped("GARE_FIXTURES names no folder with parity/")
    found: Found = {}
    for name in GOLDEN:
        with safe_open(folder / f"{name}.safetensors", "pt") as file:
            config = json.loads(file.metadata()["config"])
            tensors = {key: file.get_tensor(key).to(device) for key in file.keys()}  # noqa: SIM118
        head = GareHead(config["dim"], ModelConfig(pool_temperature=config["pool_temperature"])).to(device)
        assert head.psi is not None
        head.psi.load_state_dict(
            {
                key.removeprefix("psi.").removeprefix("layers.0.").removeprefix("cross_attn."): value
                for key, value in tensors.items()
                if key.startswith("psi.")
            }
        )
        mask = torch.ones(tensors["frames"].shape[:2], dtype=torch.bool, device=device)
        scores = head(tensors["text"], tensors["frames"], mask).scores
        found[name] = float((scores.detach() - tensors["scores"]).abs().max())
    return within(found, dict.fromkeys(GOLDEN, 1e-5))


def devices(device: torch.device) -> Found:
    """Score the same batch on the CPU and on the device, in float32, and with the towers in bf16."""
    config, scores = settings(), {}
    for where in (torch.device("cpu"), device):
        model = small_model(config, torch.device("cpu")).eval().to(where)
        for precision in ("fp32", "bf16"):
            batch, of = noise(config, where), settings(f"train.precision={precision}")
            with torch.no_grad():
                made = encode(model, batch, of)
                scores[where.type, precision] = model.score(made.text, made.frames, batch.frame_mask).scores.cpu()
    plain = scores["cpu", "fp32"]
    found = {
        "fp32": float((scores[device.type, "fp32"] - plain).abs().max()),
        "bf16": float((scores[device.type, "bf16"] - plain).abs().max()),
    }
    return within(found, {"fp32": 1e-5, "bf16": 0.1})


def heads(device: torch.device) -> Found:
    """Compare the factorised head with the dense one on the device: the loss, and all gradients."""
    found: Found = {}
    for context in ("frames", "words"):
        own = ("model.dropout=0", f"model.context={context}")
        dense, factorised = settings(*own), settings(*own, "train.increments=factorised")
        (loss, wanted), (again, got) = (gradient(config, device) for config in (dense, factorised))
        found[f"{context}: loss"] = abs(again - loss) / abs(loss)
        found[f"{context}: gradient"] = apart(got, wanted)
    return within(found, dict.fromkeys(found, 10 * EXACT))


def gradient(config: Config, device: torch.device) -> tuple[float, Tensor]:
    """Return the loss of the small model's batch, and the gradient of all parameters as one vector."""
    model = small_model(config, device)
    terms, _ = backward(model, noise(config, device), config, SINGLE, 0)
    return float(terms.share), _flat(model)


def paths(device: torch.device, left_out: frozenset[str] = frozenset()) -> Found:
    """Take one step by every way to compute it, and compare loss and gradient with the plain one's."""
    config = settings()
    model, batch = small_model(config, device), noise(config, device)
    loss, wanted, _ = one_step(copy.deepcopy(model), batch, config)
    found: Found = {}
    for name, (changes, _) in PATHS.items():
        if name in left_out:
            continue
        plain = sdpa_kernel(SDPBackend.MATH) if "without fused" in name else nullcontext()
        with plain:
            own, got, steps = one_step(copy.deepcopy(model), batch, settings(*changes))
        found[name] = max(abs(own - loss) / abs(loss), apart(got, wanted))
        if steps > 1:
            found[f"{name}: steps left out"] = steps - 1
    return within(found, {name: bound for name, (_, bound) in PATHS.items() if name in found})


def one_step(model: GareModel, batch: Batch, config: Config, world: World = SINGLE) -> tuple[float, Tensor, int]:
    """Return loss, clipped gradient and number of steps taken until one was not left out for an overflow of fp16."""
    with numerics(config):
        freeze(model, config.train)
        prepare_towers(model, config.train)
        optimiser, extras = make_optimiser(model, config.train), Extras(model, config)
        set_learning_rates(optimiser, 1.0)
        steps, values = 0, {"skipped": 1.0}
        while values.get("skipped") and steps < MOST_STEPS:
            values = train_step(model, optimiser, batch, config, world, 0, scaler=extras.scaler, ema=extras.ema)
            steps += 1
    return values["loss"], _flat(model), steps


def draws(device: torch.device) -> Found:
    """Draw masks twice, and train twice with deterministic algorithms: the same bits each time."""
    config = settings("train.deterministic=true")
    like = torch.empty(4, 64, 128, device=device)
    first, again, other = (PairDropout(0.3, 7, step).mask(like) for step in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    weights = []
    for _ in range(2):
        model, batch = small_model(config, device), noise(config, device)
        one_step(model, batch, config)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    share = float((first == 0).double().mean())
    same = torch.equal(first, again) and not torch.equal(first, other)
    equal = torch.equal(*weights)
    passed = same and equal and abs(share - 0.3) < 0.02
    return {"dropped": share, "same draws": same, "two runs equal": equal, "passed": passed}


def apart(got: Tensor, wanted: Tensor) -> float:
    """Return the length of the difference as a share of the length of ``wanted``."""
    return float((got - wanted).norm() / wanted.norm())


def _flat(model: Any) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
