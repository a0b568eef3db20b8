"""``gare index`` and ``gare search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gare.cli.checkpoint import CHECKPOINT, SHARDS, SPLIT, open_checkpoint
from gare.cli.command import config_options, gare_command
from gare.common.console import note, print_table


@gare_command("index", short_help="Encode the videos of a split for search.")
@CHECKPOINT
@SHARDS
@SPLIT
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the index.")
@config_options
def index(checkpoint: str, shards: str, split: str, out: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Encode the videos of a split with CHECKPOINT (or the best one of a run's folder), for search.

    \b
    Example:
      gare index runs/demo --shards shards --split test --out index
    """
    from gare.data.batches import check_fit
    from gare.search.index import write_index

    with open_checkpoint(checkpoint, shards, overrides) as (folder, model, dataset, config):
        check_fit(model, dataset, config)
        videos = write_index(out, folder, model, dataset.split(split), config, dataset.digest)
    note(f'{out}: {videos} videos; search them with: gare search {out} "..."')
    return {"out": str(out), "videos": videos, "checkpoint": str(folder)}


@gare_command("search", short_help="Find the videos a sentence describes.")
@click.argument("index_folder", metavar="INDEX", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="How many videos to list.")
@click.option("--checkpoint", help="Where the index's checkpoint is now, if it was moved.")
@click.option(
    "--first-stage",
    type=click.IntRange(min=1),
    help="Score only this many candidates, chosen by two inner products: approximate in the choice, exact in scores.",
)
def search(index_folder: Path, query: str, top: int, checkpoint: str | None, first_stage: int | None) -> dict[str, Any]:
    """Find the videos in INDEX that QUERY describes.

    \b
    Example:
      gare search index "a small red circle moving left" --top 5
    """
    from gare.runs.storage import find_checkpoint
    from gare.search.index import open_index

    opened = open_index(index_folder, find_checkpoint(checkpoint) if checkpoint else None)
    hits = opened.search(query, top, first_stage=first_stage)
    rows = [[hit.rank, f"{hit.score:.3f}", hit.video_id, hit.uri] for hit in hits]
    print_table(f"“{query}”", ["rank", "score", "video", "path"], rows)
    return {"query": query, "hits": [vars(hit) for hit in hits]}
