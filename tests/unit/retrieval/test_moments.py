"""When in a video: its windows, the seconds of the best one, and the clips of one file."""

from __future__ import annotations

import pytest
import torch

from gare.config.experiment import ModelConfig
from gare.model import GareModel
from gare.retrieval.index import Hit, Hits, Searched
from gare.retrieval.moments import MOMENTS, by_file
from gare.retrieval.windows import score_windows, seconds, window_places, with_seconds
from gare.scoring.factors import Texts
from tests import toy
from tests.served import make_served


@pytest.mark.parametrize(
    ("frames", "expected"),
    [(1, [(0, 1)]), (2, [(0, 1), (1, 2)]), (3, [(0, 2), (1, 3)]), (4, [(0, 2), (1, 3), (2, 4)])],
)
def test_windows_are_half_a_video_and_begin_at_each_frame(frames, expected):
    assert [(place.start, place.stop) for place in window_places(frames)] == expected


def test_windows_meet_halfway_between_frames_and_stay_inside_the_clip():
    times = [10.0, 12.0, 16.0, 17.0]
    assert [seconds(times, place) for place in window_places(4)] == [(10.0, 14.0), (11.0, 16.5), (14.0, 17.0)]


def test_the_windows_of_many_videos_score_as_each_window_alone(toy_clip, toy_shards, tmp_path):
    config = toy.toy_config(toy_clip, toy_shards, tmp_path, "model.max_frames=8", "model.temporal_layers=2")
    torch.manual_seed(3)
    model = GareModel.from_clip(toy_clip, config.model).eval()
    texts, videos = Texts(torch.randn(1, model.dim)), [torch.randn(n, model.dim) for n in (5, 1, 8)]
    for frames, scores in zip(videos, score_windows(model, texts, videos), strict=True):
        alone = []
        for place in window_places(len(frames)):
            clip = frames[None, place.start : place.stop]
            mask = torch.ones(clip.shape[:2], dtype=torch.bool)
            with torch.no_grad():
                alone.append(float(model.score(texts.text, model.temporal(clip, mask), mask).scores))
        assert scores.tolist() == pytest.approx(alone, abs=1e-5)
    assert score_windows(model, texts, []) == []


def test_of_joined_clips_the_right_half_is_chosen(toy_clip):
    """Each clip has frames around a direction of its own, and the text is that direction."""
    model = GareModel.from_clip(toy_clip, ModelConfig(head="mean_pool", temporal_layers=0)).eval()
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(40, model.dim, generator=random)
    right = 0
    for n in range(0, 40, 2):
        frames = centres[n : n + 2].repeat_interleave(6, 0) + 0.7 * torch.randn(12, model.dim, generator=random)
        for half in (0, 1):
            (scores,) = score_windows(model, Texts(centres[n + half][None]), [frames])
            best = window_places(12)[int(scores.argmax())]
            right += (best.start + best.stop) / 2 > 6 if half else (best.start + best.stop) / 2 < 6
    assert right >= 0.95 * 40


def hits(files):
    """Hits on clips of these files, best first."""
    found = [Hit(n, -float(n), f"{file}{n}", file) for n, file in enumerate(files, 1)]
    return Hits(found, Searched(len(found), len(found)), [(0, n) for n in range(len(found))])


class Indexed:
    """An index whose ranking of all clips is known."""

    def __init__(self, files, *, shares_files=True):
        self.everything, self.asked, self.shares_files = hits(files), [], shares_files

    def __len__(self):
        return len(self.everything)

    def search(self, top):
        self.asked.append(top)
        return Hits(self.everything[:top], self.everything.searched, self.everything.places[:top])


@pytest.mark.parametrize(
    ("files", "wanted", "expected"),
    [
        ("abc", 2, "ab"),
        ("aabac", 2, "aaab"),
        ("aaaaaaaaab", 2, "aaaaab"),  # found by asking for more
        ("ab", 9, "ab"),
        ("aaaaaaa", 1, "aaaaa"[:4]),
    ],
)
def test_the_hits_of_a_file_stand_together(files, wanted, expected):
    index = Indexed(files)
    found = by_file(index, index.search, wanted)
    assert "".join(hit.uri for hit in found) == expected
    assert [place for _, place in found.places] == [hit.rank - 1 for hit in found]
    assert len(expected) <= MOMENTS * wanted


def test_an_index_of_whole_files_is_asked_once():
    index = Indexed("abcdef", shares_files=False)
    assert len(by_file(index, index.search, 3)) == 3
    assert index.asked == [3]


def test_a_search_tells_seconds_within_the_clip_of_each_hit(tmp_path, toy_clip):
    index = make_served(tmp_path, toy_clip)
    assert index.shares_files
    texts = index.encode("a red square")
    plain = index.search("a red square", 20, texts=texts)
    timed = with_seconds(index, plain, texts)
    assert [(hit.rank, hit.video_id, hit.score) for hit in timed] == [(h.rank, h.video_id, h.score) for h in plain]
    for hit, (segment, row) in zip(timed, timed.places, strict=True):
        first, last = index.segments[segment].media.read(row, index.model.model.dim).bounds_s
        if first == last:
            assert hit.seconds is None
        else:
            assert first <= hit.seconds[0] < hit.seconds[1] <= last
