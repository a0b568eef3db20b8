"""``gare config``, ``gare make-clip`` and ``gare train``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import CHECKPOINT, PLACE, config_options, gare_command
from gare.common.console import note, print_table, say
from gare.common.errors import InputError

if TYPE_CHECKING:
    from gare.runs.state import RunSummary


@gare_command("config", short_help="Print resolved settings, explain them, or compare two files.")
@click.argument("file", required=False, type=click.Path())
@click.option("--schema", is_flag=True, help="List every key with its type, unit, default and meaning.")
@click.option(
    "--diff",
    nargs=2,
    type=click.Path(),
    metavar="A B",
    help="Show the keys whose values differ between two config files.",
)
@config_options
def config(file: str | None, schema: bool, diff: tuple[str, str] | None, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Print the resolved settings of FILE, or of the published recipe without FILE, as YAML.

    \b
    Examples:
      gare config configs/demo.yaml --set train.epochs=3
      gare config --schema
      gare config --diff configs/demo.yaml configs/msrvtt.yaml
    """
    from gare.config import tree

    if schema:
        docs = tree.describe()
        rows = [[d.key, d.type, d.unit, "null" if d.default is None else str(d.default), d.meaning] for d in docs]
        print_table("Settings", ["key", "type", "unit", "default", "meaning"], rows)
        return {"keys": [vars(d) for d in docs]}
    if diff:
        left, right = (tree.load_config(path, overrides) for path in diff)
        changes = tree.diff(left, right)
        print_table(
            f"{diff[0]} against {diff[1]}", ["key", diff[0], diff[1]], [[k, a, b] for k, (a, b) in changes.items()]
        )
        return {"changes": {k: list(pair) for k, pair in changes.items()}}
    resolved = tree.load_config(file, overrides)
    say(tree.to_yaml(resolved).removesuffix("\n"))
    return {"config": resolved.model_dump(mode="json"), "digest": resolved.digest()}


def _size(name: str, default: int, says: str, least: int, most: int) -> Callable[[Callable[..., Any]], Any]:
    return click.option(name, default=default, type=click.IntRange(least, most), help=says)


@gare_command("make-clip", short_help="Make a small CLIP model from scratch.")
@click.argument("manifest", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="Folder for the CLIP model and tokenizer.")
@click.option("--split", default="train", help="Split whose captions train the tokenizer.")
@_size("--image-size", 64, "Side of the square frames, in pixels.", 8, 1024)
@_size("--patch-size", 32, "Side of a patch, in pixels.", 2, 1024)
@_size("--width", 128, "Width of both towers and of the embedding, a multiple of 64.", 64, 4096)
@_size("--vision-layers", 3, "Blocks of the image tower.", 1, 64)
@_size("--text-layers", 2, "Blocks of the text tower.", 1, 64)
@_size(
    "--vocabulary",
    1024,
    "Largest number of token ids; 514 of them are single bytes and the marks of start and end.",
    514,
    2**17,
)
@_size("--seed", 0, "Seed of the initial weights.", 0, 2**32 - 1)
def make_clip(manifest: Path, out: Path, split: str, **sizes: int) -> dict[str, Any]:
    """Make a small CLIP model from scratch for the captions in MANIFEST, in the format of any other CLIP.

    Use it if no published CLIP suits your videos, or if you cannot download one: train it with --set model.clip=DIR and
    learning rates of 1e-3.

    \b
    Example:
      gare make-clip manifest.parquet --out clip --image-size 64
    """
    from gare.model.scratch import ScratchClip
    from gare.model.scratch import make_clip as make
    from pipelines.manifest.load import load_manifest

    rows = load_manifest(manifest).select(["split", "captions"]).to_pylist()
    captions = [caption for row in rows if row["split"] == split for caption in row["captions"]]
    if not captions:
        raise InputError(f"The split {split!r} of {manifest} has no captions to train a tokenizer on.")
    parameters = make(captions, out, ScratchClip(**sizes))
    note(f"{out}: a CLIP of {parameters:,} parameters, its tokenizer trained on {len(captions)} captions")
    return {"out": str(out), "parameters": parameters, "captions": len(captions)}


@gare_command("export-clip", short_help="Write the CLIP inside a trained model as a CLIP folder.")
@CHECKPOINT
@click.option("--out", required=True, type=PLACE, help="Folder for the CLIP model and tokenizer.")
def export_clip(checkpoint: str, out: Path) -> dict[str, Any]:
    """Write the two towers of CHECKPOINT, or of a run's best checkpoint, as a CLIP folder that model.clip can name.

    The temporal transformer and the pair head stay behind. This makes a CLIP for videos that no published one knows:
    train the towers on single frames first, then a model for clips on top of them.

    \b
    Example:
      gare train configs/frames.yaml --shards shards
      gare export-clip runs/frames --out clip
      gare train clips.yaml --shards shards --set model.clip=clip
    """
    from gare.model.checkpoint import export_clip as export
    from gare.runs.storage import find_checkpoint

    folder = find_checkpoint(checkpoint)
    parameters = export(folder, out)
    note(f"{out}: the CLIP of {folder}, {parameters:,} parameters; use it with --set model.clip={out}")
    return {"out": str(out), "checkpoint": str(folder), "parameters": parameters}


@gare_command("train", short_help="Train a model on shards.")
@click.argument("config_file", metavar="CONFIG", type=PLACE)
@click.option("--shards", help="Folder or address of gare prepare (runtime.shards).")
@click.option("--local", is_flag=True, help="Train in this process, without Ray; the losses are the same.")
@click.option("--extend", metavar="EPOCHS", type=click.IntRange(min=1), help="Train a finished run for EPOCHS more.")
@click.option("--dry-run", is_flag=True, help="Show what the run would be and what would fail; start nothing.")
@click.option("--manifest", type=PLACE, help="With --dry-run: count the videos of this manifest instead of shards.")
@config_options
def train(
    config_file: Path, dry_run: bool, manifest: Path | None, overrides: tuple[str, ...], **options: Any
) -> dict[str, Any]:
    """Train the experiment in CONFIG on shards, evaluating on the dev split each epoch (protocol.dev).

    The run's folder (runtime.output / its name) holds the resolved settings, the history and the best and last
    checkpoints. If a run is interrupted, run the same command again and it continues, even with other workers. A
    finished run is left as it is, unless you --extend it: the learning rate then rises and falls once more over the
    added epochs. If that is interrupted, it continues with or without --extend.

    --dry-run decodes, loads and writes nothing. It shows settings, splits, steps, parameter groups, a worker's memory
    and the size of the shards, as far as shards or a manifest tell.

    \b
    Examples:
      gare train configs/demo.yaml --shards shards
      gare train configs/msrvtt.yaml --shards shards --set runtime.workers=8
      gare train configs/msrvtt.yaml --shards shards --set runtime.workers=[2,8]
      gare train configs/msrvtt.yaml --shards shards --set runtime.checkpoint_every_steps=500
      gare train configs/didemo.yaml --shards didemo --set train.init_from=runs/msrvtt
      gare train configs/demo.yaml --shards shards --local --set train.epochs=1
      gare train configs/demo.yaml --shards shards --extend 5
      gare train configs/msrvtt.yaml --dry-run --manifest manifest.parquet
    """
    if dry_run:
        if options["extend"]:
            raise InputError(
                "--extend trains a finished run further, which --dry-run does not plan; leave one of them out."
            )
        from gare.api.settings import resolve
        from gare.cli.dry_run import dry_run as plan

        return plan(resolve(config_file, overrides, shards=options["shards"]), manifest, local=options["local"])
    if manifest is not None:
        raise InputError("--manifest goes with --dry-run; training reads the shards that gare prepare makes of it.")
    from gare.api import train as api

    summary = api.train(config_file, set=overrides, **options)
    _show(summary)
    return asdict(summary)


def _show(summary: RunSummary) -> None:
    from gare.runs.state import progress

    if summary.already_finished:
        note(f"The run {summary.name} is finished; nothing was done.")
    elif summary.resumed_step is not None:
        note(f"The run went on after {progress(summary.resumed_from or 0, summary.resumed_step)}.")
    if not summary.best_metrics:
        note(f"Last epoch's checkpoint: {summary.best} (protocol.dev is none, so nothing was evaluated)")
        return
    print_table(
        f"Best checkpoint, by {summary.selected_by}: {summary.best}",
        ["metric", "value"],
        [[name.removeprefix("dev/"), float(value)] for name, value in summary.best_metrics.items()],
    )
