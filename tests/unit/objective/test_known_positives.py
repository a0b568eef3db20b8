"""Pairs known to match are no negatives: by brute force, in the regularisers untouched, and over ranks."""

from __future__ import annotations

import pytest
import torch

from gare.common.errors import ConfigError
from gare.config import DataConfig
from gare.config.experiment import ObjectiveConfig
from gare.data.batches import group
from gare.data.shards import VideoInfo
from gare.objective import SINGLE, info_nce, objective
from gare.objective.loss import known_pairs
from gare.runs.inputs import open_data
from tests.ranks import on_ranks

B = 8
GROUPS = torch.tensor([5, 7, 5, 9, 7, 5, 1, 2])


def by_hand(logits, groups):
    """L_nce pair by pair."""
    total = 0
    for i in range(len(logits)):
        others = [j for j in range(len(logits)) if j == i or groups[j] != groups[i]]
        total += logits[i, others].logsumexp(0) + logits[others, i].logsumexp(0) - 2 * logits[i, i]
    return total / (2 * len(logits))


def drawn(scale=20.0):
    return scale * torch.randn(B, B, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(logits, loss):
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    return value.detach(), logits.grad


def test_known_pairs_are_left_out_of_both_softmaxes_as_by_hand():
    value, got = gradient(drawn(), lambda logits: info_nce(logits, false_negatives=known_pairs(GROUPS)))
    expected, wanted = gradient(drawn(), lambda logits: by_hand(logits, GROUPS))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    off_diagonal = known_pairs(GROUPS).fill_diagonal_(False)
    assert off_diagonal.sum() == 8
    assert not got[off_diagonal].any()
    assert not torch.isclose(value, info_nce(drawn()))


def test_without_known_pairs_the_loss_is_bit_for_bit_the_published_one():
    assert torch.equal(info_nce(drawn()), info_nce(drawn(), false_negatives=known_pairs(torch.arange(B))))


def test_a_batch_of_one_group_has_no_negatives():
    value, got = gradient(drawn(), lambda logits: info_nce(logits, false_negatives=known_pairs(torch.zeros(B))))
    assert value == 0
    assert not got.any()


def test_regularisers_take_every_pair():
    delta = torch.randn(B, B, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, other = (
        objective(drawn(1.0), delta, torch.tensor(20.0), ObjectiveConfig(), false_negatives=false_negatives)
        for false_negatives in (None, known_pairs(GROUPS))
    )
    assert one.parts["info_nce"] != other.parts["info_nce"]
    for name in ("information_bottleneck", "trust_region", "direction_diversity"):
        assert one.parts[name] == other.parts[name]


def wrong(ranks):
    """What is not as one process has it."""
    found, own = [], ranks.own(B // ranks.size)
    # With one group on rank 0 its own columns hold nothing but the diagonal there.
    for name, groups in {"mixed": GROUPS, "all_but_last": torch.tensor([0] * (B - 1) + [1])}.items():
        expected, wanted = gradient(drawn(), lambda logits, g=groups: info_nce(logits, SINGLE, known_pairs(g)))
        share, got = gradient(drawn()[own], lambda rows, g=groups: info_nce(rows, ranks, known_pairs(g[own], ranks)))
        total = ranks.total(share)
        if not torch.allclose(total, expected, rtol=1e-12):
            found.append(f"{name}: {total} is not {expected}")
        if not torch.allclose(got, wanted[own], rtol=1e-10, atol=1e-12):
            found.append(f"{name}: gradients differ by {(got - wanted[own]).abs().max()}")
    return found


def test_over_two_ranks_it_is_the_loss_of_one():
    assert on_ranks(2, wrong) == [[], []]


# Which pairs


def video(name, **attributes):
    return VideoInfo(name, name, ["a"], attributes)


def test_groups_are_videos_or_what_shares_an_attribute():
    alone = DataConfig(known_positives="same_video")
    shared = DataConfig(known_positives="attribute", positives_attribute="scene")
    a, b, c = video("a", scene="1"), video("b", scene="1"), video("c", scene="2")
    assert group(a, alone) == group(a, alone) != group(b, alone)
    assert group(a, shared) == group(b, shared) != group(c, shared)
    assert group(video("1"), shared) not in (group(a, shared), group(video("2"), shared))


@pytest.mark.parametrize(
    "values", [{"known_positives": "attribute"}, {"positives_attribute": "scene", "known_positives": "same_video"}]
)
def test_the_attribute_is_named_just_where_it_is_used(values):
    with pytest.raises(ValueError, match="go together"):
        DataConfig.model_validate(values)


def test_an_attribute_that_no_video_has_is_refused(toy_run):
    with pytest.raises(ConfigError, match="'scene', an attribute that no video of"):
        open_data(toy_run("data.known_positives=attribute", "data.positives_attribute=scene"))
