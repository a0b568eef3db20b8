"""Measure how often the best window of two joined clips lies in the half that the caption describes.

    python benchmarks/windows.py CHECKPOINT --shards SHARDS [--split test]

Each clip of the split is joined with another one, drawn at random, half of the frames from each, as sampling the joined
video would take them. Every caption of both is asked. Chance is 50 %. For comparison, "halves" lets only the two halves
compete, "frames" takes the half of the frame vector nearest to the text, before and after the temporal transformer.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from gare.common.spread import thin
from gare.data.shards import ShardSet
from gare.evaluation.encode import encode_texts, encode_twice
from gare.model.checkpoint import load_checkpoint_config, load_model
from gare.retrieval.windows import score_windows, window_places
from gare.runs.storage import find_checkpoint


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = find_checkpoint(given.checkpoint)
    config, model = load_checkpoint_config(folder), load_model(folder)
    assert model.tokenizer is not None
    split = ShardSet(given.shards).split(given.split)
    before, _ = encode_twice(model, split, config.data, 16, range(len(split)))
    order = np.random.default_rng(given.seed).permutation(len(split))
    right, asked = dict.fromkeys(("windows", "halves", "frames before", "frames after"), 0), 0
    for first, second in zip(order.tolist(), np.roll(order, 1).tolist(), strict=True):
        parts = [before.frames[n][before.frame_mask[n]] for n in (first, second)]
        count = min(map(len, parts)) // 2
        joined = torch.cat([part[thin(len(part), count)] for part in parts])
        with torch.no_grad():
            after = model.temporal(joined[None], torch.ones(1, len(joined), dtype=torch.bool))[0]
        places = window_places(len(joined))
        for half, n in enumerate((first, second)):
            texts = encode_texts(model, model.tokenizer, split.videos[n].captions, config.data.words, 16)
            for row in range(len(texts)):
                one = texts[row : row + 1]
                scores = score_windows(model, one, [joined])[0]
                best = places[int(scores.argmax())]
                inside = sum(frame // count == half for frame in best)
                right["windows"] += 2 * inside > len(best)
                right["halves"] += int(scores[-1] > scores[0]) == half
                for name, frames in (("frames before", joined), ("frames after", after)):
                    near = torch.nn.functional.cosine_similarity(frames, one.text, dim=-1)
                    right[name] += int(near.argmax()) // count == half
                asked += 1
    print(f"{len(split)} pairs of {2 * count} frames, {asked} captions; the right half:")
    for name, number in right.items():
        print(f"{name:14} {100 * number / asked:6.1f} %")


if __name__ == "__main__":
    main()
