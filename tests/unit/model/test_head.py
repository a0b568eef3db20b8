"""The pair head against the plain equations and the released code's golden tensors."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from gare.common.errors import ConfigError
from gare.config import ModelConfig
from gare.config.experiment import ObjectiveConfig
from gare.objective import objective
from gare.scoring.head import PairDropout
from gare.scoring.increment.head import GareHead
from tests import reference

PSI_NAMES = ("layers.0.cross_attn.", "layers.0.", "cross_attn.")


def golden(folder, name) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    path = folder / "parity" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()["config"])


def with_golden_psi(head: GareHead, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Load the golden parameters; returns golden name -> our name."""
    names = {}
    for key in tensors:
        if key.startswith("psi."):
            short = key.removeprefix("psi.")
            for prefix in PSI_NAMES:
                short = short.removeprefix(prefix)
            names[key] = short
    head.psi.load_state_dict({ours: tensors[theirs] for theirs, ours in names.items()})
    return names


def random_case(seed, texts=3, videos=4, frames=5, words=6, dim=8):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    lengths = lambda n, most: torch.randint(1, most + 1, (n, 1), generator=g)  # noqa: E731
    frame_mask = torch.arange(frames) < lengths(videos, frames)
    word_mask = torch.arange(words) < lengths(texts, words)
    return draw(texts, dim), draw(videos, frames, dim), frame_mask, draw(texts, words, dim), word_mask


@pytest.mark.parametrize("name", ["head_square", "head_rect", "head_trust_active", "head_trust_truncated"])
def test_head_equals_the_released_code(fixtures_dir, name):
    tensors, config = golden(fixtures_dir, name)
    head = GareHead(config["dim"], ModelConfig(pool_temperature=config["pool_temperature"]))
    with_golden_psi(head, tensors)
    out = head(tensors["text"], tensors["frames"], torch.ones(tensors["frames"].shape[:2], dtype=torch.bool))
    assert (out.scores - tensors["scores"]).abs().max() <= 2e-6
    assert (out.delta - tensors["delta"]).abs().max() <= 1e-5
    assert (out.pooled - tensors["pooled_video"]).abs().max() <= 2e-6


@pytest.mark.parametrize(
    ("side", "context", "sign"), itertools.product(["text", "video"], ["frames", "words"], ["plus", "minus"])
)
def test_masked_variants_equal_the_stored_transcription(fixtures_dir, side, context, sign):
    tensors, config = golden(fixtures_dir, "variants_masked")
    settings_ = ModelConfig(
        corrected=side,
        context=context,
        gap_sign=1 if sign == "plus" else -1,
        pool_temperature=config["pool_temperature"],
    )
    head = GareHead(config["dim"], settings_).double()
    with_golden_psi(head, tensors)
    out = head(*(tensors[k] for k in ("text", "frames", "frame_mask", "words", "word_mask")))
    key = f"{side}_{context}_{sign}"
    assert (out.scores - tensors[f"scores.{key}"]).abs().max() <= 1e-12
    assert (out.delta - tensors[f"delta.{key}"]).abs().max() <= 1e-12


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    side=st.sampled_from(["text", "video"]),
    context=st.sampled_from(["frames", "words"]),
    sign=st.sampled_from([1, -1]),
    temperature=st.floats(0.5, 20),
    sizes=st.fixed_dictionaries(
        {
            "texts": st.integers(1, 4),
            "videos": st.integers(1, 4),
            "frames": st.integers(1, 6),
            "words": st.integers(1, 7),
            "dim": st.integers(2, 12),
        }
    ),
)
def test_head_equals_the_plain_equations(seed, side, context, sign, temperature, sizes):
    text, frames, frame_mask, words, word_mask = random_case(seed, **sizes)
    torch.manual_seed(seed)
    config = ModelConfig(corrected=side, context=context, gap_sign=sign, pool_temperature=temperature)
    head = GareHead(text.shape[1], config).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    out = head(text, frames, frame_mask, words, word_mask)
    psi = dict(head.psi.named_parameters())
    for i, j in itertools.product(range(len(text)), range(len(frames))):
        score, delta, pooled = reference.pair(
            text[i],
            frames[j][frame_mask[j]],
            words[i][word_mask[i]],
            psi,
            corrected=side,
            context=context,
            sign=sign,
            temperature=temperature,
        )
        assert torch.allclose(out.scores[i, j], score, atol=1e-10)
        assert torch.allclose(out.delta[i, j], delta, atol=1e-9)
        assert torch.allclose(out.pooled[i, j], pooled, atol=1e-10)


@pytest.mark.parametrize(
    ("query", "side", "context"),
    itertools.product(["text", "residual", "residual_scaled"], ["text", "video"], ["frames", "words"]),
)
def test_other_queries_equal_the_plain_equations(query, side, context):
    text, frames, frame_mask, words, word_mask = random_case(7)
    torch.manual_seed(7)
    head = GareHead(text.shape[1], ModelConfig(query=query, corrected=side, context=context, max_frames=9)).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    out = head(text, frames, frame_mask, words, word_mask)
    psi, radius = dict(head.psi.named_parameters()), None
    if query == "residual_scaled":
        radius = (head.radius.linear.weight[0], head.radius.linear.bias[0])
    for i, j in itertools.product(range(len(text)), range(len(frames))):
        score, delta, _ = reference.pair(
            text[i],
            frames[j][frame_mask[j]],
            words[i][word_mask[i]],
            psi,
            corrected=side,
            context=context,
            sign=1,
            temperature=3.0,
            query_form=query,
            radius=radius,
        )
        assert torch.allclose(out.scores[i, j], score, atol=1e-10)
        assert torch.allclose(out.delta[i, j], delta, atol=1e-9)


def test_only_residual_scaled_has_a_radius_and_it_learns():
    text, frames, frame_mask, *_ = random_case(2)
    assert [GareHead(8, ModelConfig(query=q)).radius is None for q in ("gap", "text", "residual")] == [True] * 3
    head = GareHead(8, ModelConfig(query="residual_scaled", max_frames=frames.shape[1])).double()
    head(text, frames, frame_mask).delta.norm(dim=-1).sum().backward()
    assert (head.radius.linear.weight.grad[0, : int(frame_mask.sum(1).max())] != 0).all()
    with pytest.raises(ConfigError, match=r"10 frames are more than model.max_frames, 5"):
        head(text, frames.repeat(1, 2, 1), frame_mask.repeat(1, 2))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    side=st.sampled_from(["text", "video"]),
    context=st.sampled_from(["frames", "words"]),
    query=st.sampled_from(["gap", "text", "residual", "residual_scaled"]),
    extra=st.integers(1, 4),
)
def test_padding_never_changes_a_score_or_the_loss(seed, side, context, query, extra):
    text, frames, frame_mask, words, word_mask = random_case(seed, texts=4, videos=4)
    torch.manual_seed(seed)
    head = GareHead(text.shape[1], ModelConfig(corrected=side, context=context, query=query)).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def measured(*inputs):
        out = head(*inputs)
        loss = objective(out.scores, out.delta, torch.tensor(20.0).double(), ObjectiveConfig()).share
        return out.scores, loss

    def junk(x):
        return torch.cat([x, 100 * torch.randn(len(x), extra, x.shape[-1], dtype=x.dtype)], dim=1)

    def longer(mask):
        return torch.cat([mask, torch.zeros(len(mask), extra, dtype=torch.bool)], dim=1)

    plain = measured(text, frames, frame_mask, words, word_mask)
    padded = measured(text, junk(frames), longer(frame_mask), junk(words), longer(word_mask))
    for a, b in zip(plain, padded, strict=True):
        assert torch.allclose(a, b, atol=1e-9, rtol=1e-7)


def test_baseline_is_the_cosine_with_the_pooled_video():
    text, frames, frame_mask, *_ = random_case(5)
    out = GareHead(text.shape[1], ModelConfig(increment="none"))(text, frames, frame_mask)
    assert out.delta is None
    assert torch.allclose(out.scores, torch.cosine_similarity(text[:, None], out.pooled, dim=-1))


def test_words_context_without_words_is_refused():
    text, frames, frame_mask, *_ = random_case(5)
    with pytest.raises(ConfigError, match="needs words"):
        GareHead(text.shape[1], ModelConfig(context="words")).double()(text, frames, frame_mask)


def test_dropout_depends_on_the_global_text_and_not_on_the_rank():
    like = torch.zeros(6, 4, 32)
    whole = PairDropout(0.3, seed=1, step=7).mask(like)
    part = PairDropout(0.3, seed=1, step=7, first_text=3).mask(like[:3])
    assert torch.equal(whole[3:], part)
    assert not torch.equal(whole, PairDropout(0.3, seed=1, step=8).mask(like))
    assert whole.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert abs(float((whole == 0).double().mean()) - 0.3) < 0.06


def test_head_stays_in_float32_under_autocast():
    text, frames, frame_mask, *_ = random_case(9)
    head = GareHead(text.shape[1], ModelConfig())
    plain = head(text.float(), frames.float(), frame_mask).scores
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(text.float(), frames.float(), frame_mask).scores
    assert inside.dtype == torch.float32
    assert torch.equal(plain, inside)
