"""``gare corpus``: a small captioned corpus of real video files, for the demo and for trying things out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gare.cli.command import gare_command
from gare.common.console import meter, note, print_table
from gare.common.errors import InputError


@gare_command("corpus", short_help="Write a small captioned corpus of real video files.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; new or empty.")
@click.option("--videos", required=True, type=int, help="Videos in all splits together, 12 or more (24 for events).")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Another seed, another corpus.")
@click.option(
    "--kind",
    default="objects",
    show_default=True,
    type=click.Choice(["objects", "events"]),
    help="One moving object in each clip, or several that come and go.",
)
@click.option("--events", type=int, help="Events: how many in each clip, 2 to 5; default 3.")
@click.option("--clutter", type=int, help="Events: still shapes in each background, 0 to 40; default 6.")
@click.option("--twins", type=float, help="Events: share of training clips that have a twin, 0 to 1; default 0.1.")
def corpus(out: Path, videos: int, seed: int, kind: str, **difficulty: Any) -> dict[str, Any]:
    """Write captioned videos of moving objects: DIR/videos and DIR/captions.csv.

    One object a clip: from 600 videos on, test holds 240 and dev 80, in groups of four that differ only in their
    motion; smaller corpora keep these shares.

    Events: several objects come and go in each clip, and each caption describes one of them. Test and dev come in
    groups of eight clips of the same objects, so that you have to tell which one moves where. Twins have the same
    events at other times and places, so their captions are interchangeable: the column "events" marks them, for
    data.positives_attribute.

    The same options give the same files; a finished corpus is left as it is.

    \b
    Examples:
      gare corpus --out work/corpus --videos 1800
      gare corpus --out work/events --videos 3000 --kind events --twins 0.3
    """
    from pipelines.synthetic import Difficulty, write_corpus

    given = {name: value for name, value in difficulty.items() if value is not None}
    if given and kind != "events":
        raise InputError(f"{', '.join(f'--{name}' for name in given)} needs --kind events.")
    events = Difficulty(**given) if kind == "events" else None
    with meter("videos", videos) as progress:
        report = write_corpus(out, videos, seed, on_progress=progress.update, events=events)
    if report.reused:
        note(f"{out} already holds this corpus.")
    rows = [[split, count, count * report.captions // videos] for split, count in report.splits.items()]
    print_table(f"{report.captions_file}", ["split", "videos", "captions"], rows)
    return {
        "captions_file": str(report.captions_file),
        "splits": report.splits,
        "captions": report.captions,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 3),
        "reused": report.reused,
    }
