"""``gare diagnose``: what the increments of a checkpoint do, in figures and in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gare.cli.checkpoint import CHECKPOINT, SHARDS, open_checkpoint
from gare.cli.command import config_options, gare_command
from gare.common.console import note, print_table


@gare_command("diagnose", short_help="Measure and draw what the increments of a checkpoint do.")
@CHECKPOINT
@SHARDS
@click.option("--split", default="dev", show_default=True, help="Split to look at.")
@click.option("--pairs", default=64, show_default=True, type=click.IntRange(min=2), help="Videos, a caption each.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="PNG to write.")
@config_options
def diagnose(
    checkpoint: str, shards: str, split: str, pairs: int, out: Path, overrides: tuple[str, ...]
) -> dict[str, Any]:
    """Measure what the increments of CHECKPOINT do to the captions and videos of a split, and draw it.

    Modality gap, alignment and uniformity before and after the increment, its length and angle for matching and
    other pairs, margins, and how far the gradients of one anchor pull against each other.

    \b
    Example:
      gare diagnose runs/demo --shards shards --split dev --out increments.png
    """
    from gare.common.errors import InputError
    from gare.common.occupied import refuse_part
    from gare.config.heads import HEADS, NO_INCREMENTS
    from gare.data.batches import check_fit
    from gare.diagnostics import increment_figure, pair_diagnostics
    from gare.diagnostics.pairs import split_state

    refuse_part(out)
    with open_checkpoint(checkpoint, shards, overrides) as (folder, model, dataset, config):
        head = model.config.head
        if not HEADS[head].increments:
            raise InputError(f"{NO_INCREMENTS.format(head)}, so there is nothing to measure of {folder}.")
        state = split_state(model, check_fit(model, dataset, config), dataset.split(split), config, pairs)
        figures = pair_diagnostics(state)
    found = len(state.text)
    increment_figure(state, out)
    title = f"{folder.name} on {found} pairs of {split}"
    print_table(title, ["measure", "value"], [[name, f"{value:.4g}"] for name, value in figures.items()])
    note(f"figure: {out}")
    finite = {name: value if value == value else None for name, value in figures.items()}
    return {"checkpoint": str(folder), "split": split, "pairs": found, "figure": str(out), "measures": finite}
