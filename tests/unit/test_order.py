"""The data order: seeded, full batches, one caption of a video per batch."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gare.data.order import epoch_batches, steps_per_epoch


@settings(max_examples=60, deadline=None)
@given(
    captions=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    batch=st.integers(1, 8),
    mode=st.sampled_from(["all", "one_per_video"]),
    seed=st.integers(0, 99),
)
def test_every_epoch_has_the_promised_number_of_full_batches_without_repeats(captions, batch, mode, seed):
    batches = epoch_batches(captions, batch, mode, seed=seed, epoch=0)
    assert len(batches) == steps_per_epoch(captions, batch, mode)
    assert all(len(b) == batch for b in batches)
    samples = [s for b in batches for s in b]
    assert len(set(samples)) == len(samples)
    assert all(0 <= caption < captions[video] for video, caption in samples)


def test_a_batch_never_holds_two_captions_of_one_video_while_others_are_left():
    batches = epoch_batches([3] * 20, 8, "all", seed=0, epoch=0)
    assert sum(len(b) for b in batches) == 56
    for batch in batches:
        assert max(Counter(video for video, _ in batch).values()) == 1


def test_same_seed_same_order_and_other_epoch_other_order():
    first = epoch_batches([2] * 16, 4, "all", seed=5, epoch=1)
    assert first == epoch_batches([2] * 16, 4, "all", seed=5, epoch=1)
    assert first != epoch_batches([2] * 16, 4, "all", seed=5, epoch=2)
    assert first != epoch_batches([2] * 16, 4, "all", seed=6, epoch=1)


def test_one_per_video_draws_different_captions_over_epochs():
    drawn = {epoch_batches([5], 1, "one_per_video", seed=0, epoch=e)[0][0][1] for e in range(20)}
    assert len(drawn) > 2
