"""``gare evaluate``, ``gare index`` and ``gare search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gare.cli.command import config_options, gare_command
from gare.common.console import note, print_table, warn
from gare.common.errors import ConfigError

CHECKPOINT = click.argument("checkpoint", type=click.Path(path_type=Path))
SHARDS = click.option("--shards", required=True, type=click.Path(path_type=Path), help="Folder of gare prepare.")
SPLIT = click.option("--split", default="test", show_default=True, help="Split to use.")


@gare_command("evaluate", short_help="Measure retrieval on a split.")
@CHECKPOINT
@SHARDS
@SPLIT
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for metrics.json; CHECKPOINT/evaluation/SPLIT when left out."
)
@click.option(
    "--frames",
    type=click.Choice(["all", "middle"]),
    default="all",
    show_default=True,
    help="middle: replace every frame of a clip by its middle one, to see how much of the score needs time.",
)
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG of some queries with their top videos.")
@config_options
def evaluate(
    checkpoint: Path,
    shards: Path,
    split: str,
    out: Path | None,
    frames: str,
    sheet: Path | None,
    overrides: tuple[str, ...],
) -> dict[str, Any]:
    """Measure how well CHECKPOINT (or the best one of a run's folder) retrieves a split, in both directions.

    Every caption is a text query; a video query counts its best-ranked caption. Ties count against the query.

    \b
    Example:
      gare evaluate runs/demo --shards shards --split test
    """
    from gare.common.files import make_folder, write_json
    from gare.retrieval.evaluate import evaluate as measure
    from gare.retrieval.sheet import contact_sheet

    folder, model, dataset, config = open_checkpoint(checkpoint, shards, overrides)
    from gare.data.batches import check_fit

    rows = dataset.split(split)
    out = make_folder(out or folder / "evaluation" / (split if frames == "all" else f"{split}-{frames}-frame"))
    result = measure(model, check_fit(model, dataset, config), rows, config, frames=frames)  # type: ignore[arg-type]
    values = result.metrics | result.sizes()
    identity = {"checkpoint": str(folder), "split": split, "frames": frames, "dataset_digest": dataset.digest}
    identity["recipe_digest"] = dataset.manifest["recipe_digest"]
    write_json(out / "metrics.json", values | identity)
    if sheet is not None:
        contact_sheet(result, rows, sheet)
        note(f"contact sheet: {sheet}")
    title = f"{folder.name} on {split}" + ("" if frames == "all" else " (every frame replaced by the middle one)")
    print_metrics(title, values)
    note(f"metrics: {out / 'metrics.json'}")
    return values | identity | {"out": str(out)}


def print_metrics(title: str, values: dict[str, Any]) -> None:
    """A retrieval table, a row per direction."""
    columns = ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "queries", "gallery"]
    names = {"t2v": "text to video", "v2t": "video to text"}
    print_table(title, ["direction", *columns], [[names[d], *(values[f"{d}/{c}"] for c in columns)] for d in names])


@gare_command("index", short_help="Encode the videos of a split for search.")
@CHECKPOINT
@SHARDS
@SPLIT
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the index.")
@config_options
def index(checkpoint: Path, shards: Path, split: str, out: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Encode the videos of a split with CHECKPOINT (or the best one of a run's folder), for search.

    \b
    Example:
      gare index runs/demo --shards shards --split test --out index
    """
    from gare.data.batches import check_fit
    from gare.retrieval.index import write_index

    folder, model, dataset, config = open_checkpoint(checkpoint, shards, overrides)
    check_fit(model, dataset, config)
    videos = write_index(out, folder, model, dataset.split(split), config, dataset.digest)
    note(f'{out}: {videos} videos; search them with: gare search {out} "..."')
    return {"out": str(out), "videos": videos, "checkpoint": str(folder)}


@gare_command("search", short_help="Find the videos a sentence describes.")
@click.argument("index_folder", metavar="INDEX", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="How many videos to list.")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Where the index's checkpoint is now, if it was moved."
)
@click.option(
    "--first-stage",
    type=click.IntRange(min=1),
    help="Score only this many candidates, chosen by two inner products: approximate in the choice, exact in scores.",
)
def search(
    index_folder: Path, query: str, top: int, checkpoint: Path | None, first_stage: int | None
) -> dict[str, Any]:
    """Find the videos in INDEX that QUERY describes.

    \b
    Example:
      gare search index "a small red circle moving left" --top 5
    """
    from gare.retrieval.index import open_index
    from gare.training.run import resolve_checkpoint

    opened = open_index(index_folder, resolve_checkpoint(checkpoint) if checkpoint else None)
    hits = opened.search(query, top, first_stage=first_stage)
    rows = [[hit.rank, f"{hit.score:.3f}", hit.video_id, hit.uri] for hit in hits]
    print_table(f"“{query}”", ["rank", "score", "video", "path"], rows)
    return {"query": query, "hits": [vars(hit) for hit in hits]}


def open_checkpoint(checkpoint: Path, shards: Path, overrides: tuple[str, ...]) -> tuple[Path, Any, Any, Any]:
    """Checkpoint folder, its model on its device, the shards, and its settings with the overrides."""
    import torch

    from gare.config.tree import parse_override, with_overrides
    from gare.data.shards import ShardSet
    from gare.model.checkpoint import load_checkpoint_config, load_model
    from gare.training.inputs import check_recipe, choose_device
    from gare.training.run import resolve_checkpoint

    changes = dict(parse_override(text) for text in overrides)
    fixed = [name for name in changes if not name.startswith(("runtime.", "data."))]
    if fixed:
        raise ConfigError(f"{fixed[0]} is part of what was trained; a checkpoint takes --set of runtime and data keys.")
    folder = resolve_checkpoint(checkpoint)
    dataset = ShardSet(shards)
    config = with_overrides(load_checkpoint_config(folder), changes)
    torch.set_num_threads(config.runtime.cpu_threads)
    model = load_model(folder).to(choose_device(config))
    try:
        check_recipe(config, dataset)
    except ConfigError as error:
        warn(f"{error} Scores on these shards may differ for that alone.")
    return folder, model, dataset, config
