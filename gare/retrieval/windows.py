"""When in a video: every window of its frames is scored as a clip of its own, and the best one tells the seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gare.model.gare import GareModel
from gare.retrieval.index import Hits, SearchIndex
from gare.scoring.factors import Texts
from gare.scoring.gallery import score_all

PARTS = 2
"""A window is this fraction of a video's frames, rounded up."""


def window_places(frames: int) -> list[range]:
    """Return the windows of a video of this many frames, at each frame where one can begin."""
    length = -(-frames // PARTS)
    return [range(start, start + length) for start in range(frames - length + 1)]


@torch.no_grad()
def score_windows(model: GareModel, texts: Texts, videos: Sequence[Tensor]) -> list[Tensor]:
    """Return the scores of every window of videos with one text.

    ``videos``: frame embeddings [n, D] from before the temporal transformer, each video with its own n.
    """
    cut = [[frames[place.start : place.stop] for place in window_places(len(frames))] for frames in videos]
    clips = [clip for windows in cut for clip in windows]
    if not clips:
        return []
    device = model.clip.logit_scale.device
    mask = pad_sequence([torch.ones(len(clip), dtype=torch.bool) for clip in clips], batch_first=True).to(device)
    frames = model.temporal(pad_sequence(clips, batch_first=True).to(device), mask)
    scores = score_all(model.head, texts.text, frames, mask, texts.words, texts.word_mask)[0]
    return list(torch.split(scores.cpu(), [len(windows) for windows in cut]))


def seconds(times_s: Sequence[float], place: range) -> tuple[float, float]:
    """Return the stretch of a window of frames shown at these times: it ends halfway to the next frame's."""
    last = len(times_s) - 1

    def edge(frame: int) -> float:
        return times_s[min(frame, last)] if frame in (0, last + 1) else (times_s[frame - 1] + times_s[frame]) / 2

    return edge(place.start), edge(place.stop)


def with_seconds(index: SearchIndex, hits: Hits, texts: Texts) -> Hits:
    """Return the hits of an encoded query with the seconds of their best windows, where the index keeps windows."""
    kept: list[tuple[int, list[float], Tensor]] = []
    for number, (segment, row) in enumerate(hits.places):
        found = index.segments[segment].media_of(row, index.model.model.dim)
        if found is not None and found.frames is not None and len(found.times_s) > 1:
            kept.append((number, found.times_s, found.frames))
    changed = list(hits)
    scores = score_windows(index.model.model, texts, [frames for _, _, frames in kept])
    for (number, times_s, frames), found_scores in zip(kept, scores, strict=True):
        best = window_places(len(frames))[int(found_scores.argmax())]
        changed[number] = replace(hits[number], seconds=seconds(times_s, best))
    return Hits(changed, hits.searched, hits.places)
