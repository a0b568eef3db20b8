"""Measure what the first stage of an index holds of the exact answer, on clips of ``gare corpus``: a table, a picture.

    python benchmarks/search_recall.py --folder DIR [--videos 14600] [--model RUN] [--picture docs/search-recall.png]

Makes the corpus and its shards in DIR, trains the model of ``gare demo`` on 1,800 such clips unless you give a run, and
indexes the training clips with a first stage. A finished part is not made again. The texts are none of those that the
stage was fitted on or measured with: captions, fragments of others, and sentences of English words that neither the
corpus nor the stage has. Recall is the share of the exact ten best videos among the best K of the stage, before and
after the tenfold widening for queries that the index marks as unknown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from gare.api import search as api
from gare.data.shards import ShardSet
from gare.retrieval.anchors import fragment
from gare.retrieval.index import WIDE, SearchIndex
from gare.retrieval.opening import open_index
from gare.retrieval.recall import TOP, Best
from gare.retrieval.records import RecordFormat, record_factors
from gare.retrieval.units import ENCODED, anchor_texts, record_scores
from gare.runs.storage import find_checkpoint
from gare.scoring.factors import slices

COUNTS = (20, 50, 100, 200, 500, 1000, 2000)
TEXTS = 512
DEMO_VIDEOS = 1800
STRANGERS = """
accordion anchor astronaut avalanche ballerina basketball beetle budget bulldozer butcher camel candle carnival
cathedral chandelier chimney cinnamon cobra compass cooking coral cucumber dancing dentist dolphin dragonfly drummer
eating election espresso explains factory ferry flamingo flute glacier guitar hammock harbour helicopter hurricane
island jogging judge jumps kangaroo kitchen kitten lantern laughing librarian lighthouse llama locksmith marathon
meteor microscope mosquito mountain museum octopus orchestra origami painter parachute parliament peacock penguin
pineapple plumber politician quarry reads referee river running sandwich saxophone scaffold sculptor singing skeleton
soldier submarine surgeon swims tailor talking tambourine telescope thunder tractor treaty trumpet tulip typewriter
umbrella violin volcano walrus waterfall wedding whisky wizard yacht yoghurt zebra
"""


def gare(*arguments: object) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", "gare", *map(str, arguments)], check=True)


def prepared(folder: Path, videos: int, config: Path) -> Path:
    """Make a corpus and its shards, and return the folder of these."""
    corpus, manifest, shards = folder / "corpus", folder / "manifest.parquet", folder / "shards"
    gare("corpus", "--out", corpus, "--videos", videos)
    columns = "video_id=video_id,uri=file,captions=caption"
    gare("manifest", "csv", corpus / "captions.csv", "--columns", columns, "--root", corpus, "--out", manifest)
    gare("prepare", manifest, "--out", shards, "--config", config, "--local")
    return shards


def trained(folder: Path, config: Path) -> Path:
    """Train the demo's model and return its run."""
    run = folder / "runs" / "model"
    shards = prepared(folder, DEMO_VIDEOS, config)
    gare("make-clip", folder / "manifest.parquet", "--out", folder / "clip", "--image-size", 64)
    settings = {"runtime.shards": shards, "runtime.output": run.parent, "runtime.name": run.name}
    settings |= {"model.clip": folder / "clip", "runtime.tracking": "false", "runtime.workers": 1}
    gare("train", config, "--local", *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")))
    return run


def captions(shards: ShardSet) -> Iterator[str]:
    """Yield all captions."""
    for split in shards.splits:
        for part in shards.parts(split):
            for video in part.videos:
                yield from video.captions


def other_texts(index: SearchIndex, shards: ShardSet) -> dict[str, list[str]]:
    """Draw captions, fragments and sentences of unknown words that the stage does not know."""
    assert index.anchors is not None
    random, anchors = np.random.default_rng(1), index.anchors
    used = {*anchors.fit, *anchors.held_out}
    others = sorted({*captions(shards)} - used)
    drawn = [others[n] for n in random.choice(len(others), 3 * TEXTS, replace=False)]
    pieces = [text for text in (fragment(text, random) for text in drawn[TEXTS:]) if text not in used]
    words = [word for word in STRANGERS.split() if anchors.unknown_words([word]) == [1.0]]
    strange = [" ".join(random.choice(words, int(random.integers(1, 7)))) for _ in range(TEXTS)]
    return {"captions": drawn[:TEXTS], "fragments": pieces[:TEXTS], "unknown words": strange}


@torch.no_grad()
def places(index: SearchIndex, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the place in the order of the stage of each text's exact ten best [n, 10], and which texts are unknown."""
    assert index.basis is not None
    assert index.anchors is not None
    assert index.record.recall is not None
    encoded, best, first = anchor_texts(index.model, texts), None, 0
    queries, leverage = index.basis.queries(encoded.text.cpu())
    factors = record_factors(index.model.model.head)
    for segment in index.segments:
        assert segment.codes is not None
        for part in slices(len(segment), ENCODED):
            rows = np.arange(part.start, part.stop)
            tensors = RecordFormat.tensors(segment.records.read(rows, index.threads))
            for scores in record_scores(index.model, factors, [tensors], encoded):
                approximate = segment.codes.of_videos(torch.from_numpy(rows)).scores(queries)
                some = Best.of(scores, approximate, first + part.start)
                best = some if best is None else best.merge(some)
        first += len(segment)
    assert best is not None
    ahead = torch.zeros_like(best.numbers)
    for segment in index.segments:
        assert segment.codes is not None
        scores = segment.codes.codes.scores(queries)
        for place, limit in enumerate(best.approximate.T):
            ahead[:, place] += (scores > limit[:, None]).sum(1)
    words, limits = index.anchors.unknown_words(texts), leverage.tolist()
    unknown = [index.record.recall.is_unknown(*pair) for pair in zip(limits, words, strict=True)]
    return ahead, torch.tensor(unknown)


def main() -> None:
    """Make what is missing, measure, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where everything goes")
    parser.add_argument("--videos", type=int, default=14_600, help="videos of the corpus; 320 of them are not indexed")
    parser.add_argument("--model", type=Path, help="a trained run or checkpoint, in place of the demo's")
    parser.add_argument("--shards", type=Path, help="shards of such a corpus, in place of making them")
    parser.add_argument("--picture", type=Path, help="file for the picture")
    options = parser.parse_args()
    config = Path(api.__file__).parents[1] / "configs" / "demo.yaml"
    model = options.model or trained(options.folder / "demo", config)
    shards = options.shards or prepared(options.folder, options.videos, config)
    index_folder = options.folder / "index"
    if not (index_folder / "index.json").exists():
        api.index(find_checkpoint(str(model)), shards, "train", out=index_folder, stage_above=0, local=True)
    index = open_index(index_folder)
    print(f"{len(index):,} videos; {index.record.recall}")
    curves, flags = {}, {}
    for kind, texts in other_texts(index, ShardSet(shards)).items():
        ahead, unknown = places(index, texts)
        flags[kind] = float(unknown.double().mean())
        curves[kind] = [share(ahead, count) for count in COUNTS]
        if kind == "unknown words":
            factor = torch.where(unknown, WIDE, 1)[:, None]
            curves["unknown words, widened"] = [share(ahead, count * factor) for count in COUNTS]
    print_table(curves, flags)
    if options.picture is not None:
        draw(curves, len(index), options.picture)


def share(ahead: torch.Tensor, count: int | torch.Tensor) -> float:
    """Return the share of the best videos with fewer than ``count`` before them, in per cent."""
    return 100 * float((ahead < count).double().mean())


def print_table(curves: dict[str, list[float]], flags: dict[str, float]) -> None:
    """Print the table in Markdown."""
    print(f"| K | {' | '.join(curves)} |\n|{' --- |' * (len(curves) + 1)}")
    for place, count in enumerate(COUNTS):
        print(f"| {count:,} | {' | '.join(f'{values[place]:.1f} %' for values in curves.values())} |")
    print(f"| marked as unknown | {' | '.join(f'{100 * value:.1f} %' for value in flags.values())} | |")


def draw(curves: dict[str, list[float]], videos: int, path: Path) -> None:
    """Draw recall against the number of candidates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (kind, values), style in zip(curves.items(), ("o-", "s-", "^:", "^-"), strict=True):
        axes.plot(COUNTS, values, style, label=kind, markersize=4)
    axes.set(xscale="log", xlabel="candidates K", ylabel=f"of the exact top {TOP}, %")
    axes.set_xticks(COUNTS, [f"{count:,}" for count in COUNTS])
    axes.set_title(f"What the best K of the first stage hold, {videos:,} videos", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
