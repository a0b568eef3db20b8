"""The data order: seeded, full batches, one caption of a video per batch."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gare.data.samples import epoch_batches, left_out, steps_per_epoch

COUNTS = st.lists(st.integers(0, 6), min_size=1, max_size=20)
MODES = st.sampled_from(["all", "one_per_video"])


def most_per_video(batch):
    return max(Counter(video for video, _ in batch).values())


@settings(max_examples=200)
@given(captions=COUNTS, batch=st.integers(1, 8), mode=MODES, seed=st.integers(0, 99), repeat=st.booleans())
def test_every_epoch_has_the_promised_number_of_full_batches_without_repeats(captions, batch, mode, seed, repeat):
    batches = epoch_batches(captions, batch, mode, seed=seed, epoch=0, repeat_videos=repeat)
    assert len(batches) == steps_per_epoch(captions, batch, mode, repeat_videos=repeat)
    assert all(len(b) == batch for b in batches)
    samples = [s for b in batches for s in b]
    assert len(set(samples)) == len(samples)
    assert all(0 <= caption < captions[video] for video, caption in samples)
    if not repeat:
        assert all(most_per_video(b) == 1 for b in batches)


@settings(max_examples=200)
@given(captions=COUNTS, batch=st.integers(1, 6), mode=MODES)
def test_no_more_full_batches_of_different_videos_exist(captions, batch, mode):
    counts = [min(count, 1) if mode == "one_per_video" else count for count in captions]
    steps = steps_per_epoch(captions, batch, mode)
    assert steps == most_batches(counts, batch)
    assert left_out(captions, batch, mode) == sum(counts) // batch - steps


def most_batches(counts, batch):
    """By taking the videos with most captions left, which is the best that can be done."""
    left, made = sorted(counts, reverse=True), 0
    while len(left) >= batch and left[batch - 1] > 0:
        left = sorted([count - (place < batch) for place, count in enumerate(left)], reverse=True)
        made += 1
    return made


@settings(max_examples=100)
@given(videos=st.integers(1, 12), count=st.integers(1, 5), batch=st.integers(1, 6), seed=st.integers(0, 99))
def test_where_no_batch_would_repeat_a_video_the_rule_changes_nothing(videos, count, batch, seed):
    allowed = epoch_batches([count] * videos, batch, "all", seed=seed, epoch=0, repeat_videos=True)
    if all(most_per_video(b) == 1 for b in allowed):
        assert epoch_batches([count] * videos, batch, "all", seed=seed, epoch=0) == allowed


def test_repeats_are_made_when_asked_for_only_and_only_when_nothing_else_is_left():
    counts = [3] * 20 + [30]
    batches = epoch_batches(counts, 8, "all", seed=0, epoch=0, repeat_videos=True)
    assert [most_per_video(b) for b in batches[:6]] == [1] * 6
    assert most_per_video(batches[-1]) > 1
    assert (len(batches), steps_per_epoch(counts, 8, "all")) == (11, 8)


def test_msr_vtt_9k_makes_as_many_steps_as_published():
    counts = [20] * 9000
    assert steps_per_epoch(counts, 128, "all") == 180_000 // 128
    assert left_out(counts, 128, "all") == 0


def test_videos_of_very_many_captions_are_spread_over_the_epoch_rather_than_lost():
    counts = [60] * 5 + [2] * 60
    batches = epoch_batches(counts, 7, "all", seed=1, epoch=0)
    assert len(batches) == 60
    assert all(most_per_video(b) == 1 for b in batches)


def test_same_seed_same_order_and_other_epoch_other_order():
    first = epoch_batches([2] * 16, 4, "all", seed=5, epoch=1)
    assert first == epoch_batches([2] * 16, 4, "all", seed=5, epoch=1)
    assert first != epoch_batches([2] * 16, 4, "all", seed=5, epoch=2)
    assert first != epoch_batches([2] * 16, 4, "all", seed=6, epoch=1)


def test_one_per_video_draws_different_captions_over_epochs():
    drawn = {epoch_batches([5], 1, "one_per_video", seed=0, epoch=e)[0][0][1] for e in range(20)}
    assert len(drawn) > 2
