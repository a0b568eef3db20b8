"""Wrong captions on purpose: as many as asked for, the same for a seed, and never a right one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gare.common.errors import ConfigError
from gare.data.samples import noisy_captions, with_noise
from gare.data.shards import ShardSet
from gare.runs.inputs import open_data


def captions_of(counts):
    return [[f"{video}/{caption}" for caption in range(count)] for video, count in enumerate(counts)]


def changed(before, after):
    """(video, caption) -> its new text."""
    pairs = {(v, c): text for v, texts in enumerate(after) for c, text in enumerate(texts)}
    return {(v, c): text for (v, c), text in pairs.items() if text != before[v][c]}


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 5), min_size=2, max_size=20).filter(lambda counts: sum(map(bool, counts)) > 1),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_exactly_the_share_is_replaced_by_captions_of_other_videos(counts, share, seed):
    before = captions_of(counts)
    after, count = noisy_captions(before, share, seed)
    assert [len(texts) for texts in after] == counts
    replaced = changed(before, after)
    assert len(replaced) == count == round(share * sum(counts))
    for (video, _), text in replaced.items():
        other, caption = map(int, text.split("/"))
        assert other != video
        assert caption < counts[other]
    assert noisy_captions(before, share, seed) == (after, count)
    assert before == captions_of(counts)


def test_another_seed_replaces_others_and_a_larger_share_replaces_more_of_the_same():
    before = captions_of([4] * 50)
    some, more = (changed(before, noisy_captions(before, share, 0)[0]) for share in (0.2, 0.5))
    assert some.items() < more.items()
    assert some != changed(before, noisy_captions(before, 0.2, 1)[0])


def test_a_text_that_the_video_has_itself_is_no_noise():
    before = [["a man talks", "a man"], ["a man talks", "a dog"], ["a cat", "a man talks"]]
    for seed in range(20):
        after, _ = noisy_captions(before, 1.0, seed)
        for own, texts in zip(before, after, strict=True):
            assert not set(own) & set(texts)


def test_videos_that_all_say_the_same_cannot_be_given_wrong_captions():
    with pytest.raises(ConfigError, match=r"data\.caption_noise"):
        noisy_captions([["a clip"], ["a clip"]], 0.5, 0)


def test_a_run_trains_on_noise_and_chooses_its_checkpoint_without(toy_run):
    clean, noisy = open_data(toy_run()), open_data(toy_run("data.caption_noise=0.25"))
    assert noisy.replaced == round(0.25 * sum(noisy.captions))
    assert noisy.captions == clean.captions
    assert noisy.steps == clean.steps
    texts = [[video.captions for video in data.train.videos] for data in (clean, noisy)]
    assert 0 < len(changed(*texts)) <= noisy.replaced
    assert [v.captions for v in noisy.dev.videos] == [v.captions for v in clean.dev.videos]
    assert (noisy.train.frames(3, 9) == clean.train.frames(3, 9)).all()
    said = noisy.remarks(toy_run("data.caption_noise=0.25"))
    assert said[0].startswith(f"{noisy.replaced} of {sum(noisy.captions)} training captions")
    assert not clean.remarks(toy_run())


def test_no_noise_is_the_split_itself(toy_shards):
    split = ShardSet(toy_shards).split("train")
    assert with_noise(split, 0.0, 0) == (split, 0)
