"""``gare index``, ``gare search`` and ``gare register``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gare.cli.command import CHECKPOINT, SHARDS, SPLIT, config_options, gare_command
from gare.common.console import note, print_table, say


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
    from gare.api import search as api

    made = api.index(checkpoint, shards, split, out=out, set=overrides)
    note(f'{out}: {len(made)} videos; search them with: gare search {out} "..."')
    return {"out": str(made.folder), "videos": len(made), "checkpoint": str(made.checkpoint)}


@gare_command("search", short_help="Find the videos that a sentence describes.")
@click.argument("index_folder", metavar="INDEX", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="How many videos to list.")
@click.option("--checkpoint", help="Where the index's checkpoint is now, if you moved it.")
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
    from gare.api import search as api

    hits = api.search(index_folder, query, top, checkpoint=checkpoint, first_stage=first_stage)
    rows = [[hit.rank, f"{hit.score:.3f}", hit.video_id, hit.uri] for hit in hits]
    print_table(f"“{query}”", ["rank", "score", "video", "path"], rows)
    return {"query": query, "hits": [asdict(hit) for hit in hits]}


@gare_command("register", short_help="Put a run's best model into MLflow's registry.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the registered model; it gets its next version.")
@click.option("--index", type=click.Path(path_type=Path), help="Index of the videos to search; made if not given.")
@click.option("--shards", help="Without --index: folder or address of gare prepare; the run's own by default.")
@click.option("--split", default="test", show_default=True, help="Without --index: split whose videos are searched.")
def register(run: Path, name: str, index: Path | None, shards: str | None, split: str) -> dict[str, Any]:
    """Put the best checkpoint of RUN, the folder of a run or a sweep, into MLflow's registry with videos to search.

    The model answers sentences: mlflow.pyfunc.load_model("models:/NAME/1").predict({"query": "a red ball"}) gives
    a row per video, best first: query, rank, video_id, score; a column top says how many.

    \b
    Examples:
      gare register runs/demo --name videos
      gare register runs/weights --name videos --index index
      mlflow models serve -m models:/videos/1 --env-manager local
    """
    from gare.api.register import best_run, register_run

    folder = best_run(run)
    done = register_run(folder, name, index=index, shards=shards, split=split)
    say(f"{done.address} is registered; mlflow.pyfunc.load_model takes this address.")
    return asdict(done) | {"run": str(folder)}
