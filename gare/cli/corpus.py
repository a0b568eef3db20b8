"""``gare corpus``: a small captioned corpus of real video files, for the demo and for trying things out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gare.cli.command import gare_command
from gare.common.console import meter, note, print_table


@gare_command("corpus", short_help="Write a small captioned corpus of real video files.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; new or empty.")
@click.option("--videos", required=True, type=int, help="Videos in all splits together, 12 or more.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Another seed, another corpus.")
def corpus(out: Path, videos: int, seed: int) -> dict[str, Any]:
    """Write captioned videos of moving objects: DIR/videos and DIR/captions.csv.

    From 600 videos on, test holds 240 and dev 80, in groups of four that differ only in their motion; smaller corpora
    keep these shares. The same seed and number of videos give the same files; a finished corpus is left as it is.

    \b
    Example:
      gare corpus --out work/corpus --videos 1800
    """
    from pipelines.synthetic import write_corpus

    with meter("videos", videos) as progress:
        report = write_corpus(out, videos, seed, on_progress=progress.update)
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
