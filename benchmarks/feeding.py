"""Compare batches from shards with decoding each caption's clip again, as the released recipe does.

    python benchmarks/feeding.py [--quick]

All ways use the same synthetic clips (10 to 30 s, 320x240, 25 fps, x264, 20 captions each), the same batches of 12
frames of 224 x 224 and 32 words in the same order, and the same feed with one reading thread; only the source of the
frames differs. This project's decoder, the fastest in benchmarks/decoding.py, decodes the clips: unchanged, and as the
released recipe stores them, re-encoded beforehand at 3 fps and a width of 224, which makes them cheap to decode. Frames
of unchanged clips are checked to be equal. All files are in the page cache. Ways are measured in turns; the output is
the median ratio of samples per second and its range.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import torch
from decoders.clips import short_clips
from numpy.typing import NDArray

from gare.common.files import write_json
from gare.config import Config
from gare.config.tree import load_config
from gare.data.feed import Feed
from gare.data.samples import Sample
from gare.data.shards import ShardSet, Split
from gare.model.tokenizer import Tokenizer
from gare.runs.inputs import open_data
from gare.schema import MANIFEST
from pipelines.dataset.ledger import dataset_manifest
from pipelines.dataset.opening import open_output
from pipelines.decode import decode_video
from pipelines.prepare.process_unit import process_unit

SIDE, CAPTIONS, BATCH = 224, 20, 8
WANTED = 10
SMALL_FPS, SMALL_WIDTH = 3, 224


class DecodingSplit(Split):
    """A split whose frames are decoded from the video files on each request."""

    def __init__(self, split: Split, config: Config, place: Callable[[str], Path]) -> None:
        self.__dict__.update(vars(split))
        self._recipe, self._place = config.prepare, place
        self._last: tuple[int, Sequence[NDArray[np.uint8]]] = (-1, [])

    def count(self, index: int) -> int:
        """Decode a video and return its number of frames."""
        self._last = index, decode_video(self._place(self.videos[index].uri), recipe=self._recipe).frames
        return len(self._last[1])

    def pictures(self, index: int, picks: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the picked ones of the frames that ``count`` decoded."""
        assert self._last[0] == index
        return [self._last[1][i] for i in picks]


def prepared(folder: Path, clips: Sequence[Path]) -> Config:
    """Prepare the clips without Ray, each with ``CAPTIONS`` captions; return the settings to train on them."""
    rows = [
        {
            "video_id": clip.stem,
            "uri": str(clip),
            "split": "train",
            "captions": [f"what is shown in {clip.stem}, told for the {n}th time" for n in range(CAPTIONS)],
        }
        for clip in clips
    ]
    config = load_config(
        None, [f"runtime.shards={folder / 'shards'}", "protocol.dev=none", f"train.global_batch={BATCH}"]
    )
    output = open_output(folder / "shards", pa.Table.from_pylist(rows, MANIFEST), config.prepare)
    for unit in range(output.units()):
        process_unit(output, unit)
    write_json(folder / "shards" / "dataset.json", dataset_manifest(output))
    return config


def made_small(clip: Path, folder: Path) -> Path:
    """Re-encode the clip at 3 fps and a width of 224, as the released recipe stores its sources."""
    path = folder / clip.name
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        came = source.streams.video[0]
        stream = target.add_stream("libx264", rate=SMALL_FPS, options={"crf": "23"})
        height = 2 * round(SMALL_WIDTH * came.height / came.width / 2)
        stream.width, stream.height, stream.pix_fmt = SMALL_WIDTH, height, "yuv420p"
        kept = 0
        for frame in source.decode(came):
            if frame.time * SMALL_FPS >= kept:
                small = frame.reformat(width=SMALL_WIDTH, height=height)
                small.pts, small.time_base = kept, Fraction(1, SMALL_FPS)
                kept += 1
                target.mux(stream.encode(small))
        target.mux(stream.encode())
    return path


class Feeding:
    """The ways of feeding one epoch's batches."""

    def __init__(self, folder: Path, clips: Sequence[Path]) -> None:
        self.config = prepared(folder, clips)
        small = folder / "small"
        small.mkdir()
        smaller = {str(clip): made_small(clip, small) for clip in clips}
        self.data = open_data(self.config)
        self.tokenizer = Tokenizer.train([text for video in self.data.train.videos for text in video.captions])
        split = ShardSet(folder / "shards").split("train")
        self.ways: dict[str, Split] = {
            "from shards": self.data.train,
            "decoding the clips": DecodingSplit(split, self.config, Path),
            "decoding them at 3 fps": DecodingSplit(split, self.config, smaller.__getitem__),
        }

    def feed(self, way: str, batches: Sequence[Sequence[Sample]]) -> Feed:
        """Feed the batches in one way."""
        device = torch.device("cpu")
        return Feed(self.ways[way], batches, self.tokenizer, self.config, SIDE, 0, slice(None), device)

    def check(self) -> None:
        """Check that the first batch from shards equals the one from the clips, to the last bit."""
        first = self.data.batches(self.config, 0)[:1]
        one, other = (next(self.feed(way, first)) for way in list(self.ways)[:2])
        assert torch.equal(one.frames, other.frames), "the shards hold other frames than decoding gives"
        assert one.video_ids == other.video_ids

    def rate(self, way: str, batches: int) -> float:
        """Return samples per second over the first batches of the epoch, from the first next() to the last."""
        order = self.data.batches(self.config, 0)
        chosen = [order[i % len(order)] for i in range(batches)]
        started = time.perf_counter()
        with self.feed(way, chosen) as feed:
            samples = sum(len(batch.video_ids) for batch in feed)
        return samples / (time.perf_counter() - started)


def main() -> None:
    """Make the clips and the shards, and print the rates and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=12, help="clips to make")
    parser.add_argument("--turns", type=int, default=5, help="turns over the ways")
    parser.add_argument("--quick", action="store_true", help="8 clips, 2 turns")
    options = parser.parse_args()
    if options.quick:
        options.clips, options.turns = BATCH, 2
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gare-bench-") as temporary:
        folder = Path(temporary)
        (folder / "clips").mkdir()
        feeding = Feeding(folder, short_clips(folder / "clips", options.clips))
        feeding.check()
        rates: dict[str, list[float]] = {way: [] for way in feeding.ways}
        for turn in range(options.turns):
            for way in list(rates)[:: 1 if turn % 2 else -1]:
                rates[way].append(feeding.rate(way, 100 if way == "from shards" else 3))
    shards = rates["from shards"]
    print(f"{options.clips} clips x {CAPTIONS} captions, {options.turns} turns; frames equal to those decoded anew")
    for way, measured in rates.items():
        ratios = [a / b for a, b in zip(shards, measured, strict=True)]
        told = f"{statistics.median(ratios):6.1f} x ({min(ratios):.1f}-{max(ratios):.1f})"
        wanted = f", wanted {WANTED} x" if way == "decoding the clips" else ""
        print(f"  {way:24s}{statistics.median(measured):9.1f} samples/s   shards are {told}{wanted}")


if __name__ == "__main__":
    main()
