"""Numbers inside the model that no setting holds: epsilons, the start of psi, where precision is needed."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gare.config import ModelConfig
from gare.model.temporal import TemporalBlock, TemporalTransformer
from gare.scoring.head import PairDropout
from gare.scoring.increment.factorised import factorised_scores
from gare.scoring.increment.head import GareHead


def plain_block(block, given, mask):
    """The temporal block as the method has it, an attention of matrices."""

    def norm(layer, x):
        return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, 1e-12)

    y, (videos, frames, dim) = norm(block.norm1, given), given.shape
    q, k, v = (
        p(y).view(videos, frames, dim // 64, 64).transpose(1, 2) for p in (block.q_proj, block.k_proj, block.v_proj)
    )
    logits = (q @ k.mT / 8).masked_fill(~mask[:, None, None, :], float("-inf"))
    x = given + block.out_proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(videos, frames, dim))
    inner = block.fc1(norm(block.norm2, x))
    return x + block.fc2(inner * torch.sigmoid(1.702 * inner))


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_temporal_block_is_the_plain_one_also_where_its_epsilon_counts(scale):
    torch.manual_seed(0)
    block = TemporalBlock(128).double()
    x, mask = scale * torch.randn(3, 5, 128, dtype=torch.float64), torch.arange(5) < torch.tensor([[5], [1], [3]])
    torch.testing.assert_close(block(x, mask)[mask], plain_block(block, x, mask)[mask], rtol=1e-9, atol=1e-12)


def test_the_temporal_transformer_adds_positions_and_what_was_before_them():
    torch.manual_seed(0)
    model = TemporalTransformer(64, 2, 7).double()
    frames, mask = torch.randn(2, 4, 64, dtype=torch.float64), torch.arange(4) < torch.tensor([[4], [2]])
    x = frames + model.positions[:4]
    for block in model.blocks:
        x = plain_block(block, x, mask)
    torch.testing.assert_close(model(frames, mask), (x + frames) * mask[..., None])
    assert float(TemporalTransformer(512, 0, 77).positions.detach().std()) == pytest.approx(0.01, rel=0.02)


def test_psi_starts_small_so_that_increments_are_as_long_as_texts():
    torch.manual_seed(0)
    head = GareHead(512, ModelConfig())
    for name, p in head.psi.named_parameters():
        if name.startswith("layer_norm"):
            assert bool((p == float(name.endswith("weight"))).all()), name
        elif name.endswith("bias"):
            assert not p.any(), name
        else:
            assert float(p.std()) == pytest.approx(0.02, rel=0.02), name
            assert abs(float(p.mean())) < 2e-4, name
    text, frames = torch.randn(3, 512), torch.randn(2, 4, 512)
    lengths = head(text, frames, torch.ones(2, 4, dtype=torch.bool)).delta.detach().norm(dim=-1)
    assert float(lengths.mean()) == pytest.approx(0.02 * 512, rel=0.1)
    radius = GareHead(64, ModelConfig(query="residual_scaled", max_frames=4000)).radius
    assert float(radius.linear.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert not radius.linear.bias.any()


def test_factorised_scores_keep_their_digits_where_text_and_video_are_nearly_the_same():
    torch.manual_seed(0)
    head = GareHead(64, ModelConfig())
    for p in head.parameters():
        torch.nn.init.normal_(p, std=0.3)
    video, mask = 10 * torch.randn(4, 1, 64), torch.ones(4, 3, dtype=torch.bool)
    frames = video + torch.randn(4, 3, 64)
    text = frames.mean(1) + 0.01 * torch.randn(4, 64)
    with torch.no_grad():
        fast = factorised_scores(head, text, frames, mask)
        plain = head.double()(text.double(), frames.double(), mask)
    rows = torch.cat(list(fast.increments.by_rows(lambda rows, _: rows))).double()
    error = (rows - plain.delta).norm(dim=-1) / plain.delta.norm(dim=-1)
    assert float(error.max()) < 1e-4


def test_dropout_is_drawn_apart_by_seed_step_and_text():
    like = torch.zeros(3, 2, 64)
    masks = [PairDropout(0.3, seed, step).mask(like) for seed, step in ((0, 0), (1, 0), (0, 1), (1, 1))]
    texts = [row for mask in masks for row in mask]
    assert len({row.numpy().tobytes() for row in texts}) == len(texts)
    assert all(math.isclose(float(row.max()), 1 / 0.7, rel_tol=1e-6) for row in texts)
