"""``gare corpus``: write a small captioned corpus; ``gare prepare``: turn a manifest into shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import PLACE, config_options, gare_command
from gare.common.console import meter, note, print_table
from gare.common.errors import InputError

if TYPE_CHECKING:
    from pipelines.prepare.job import PrepareReport

REPORTED = ("totals", "splits", "videos", "units_skipped", "seconds", "videos_per_s")


@gare_command("corpus", short_help="Write a small captioned corpus of real video files.")
@click.option("--out", required=True, type=PLACE, help="Folder to write; new or empty.")
@click.option("--videos", required=True, type=int, help="Videos in all splits together, 12 or more (24 for events).")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Seed by which the corpus is drawn.")
@click.option(
    "--kind",
    default="objects",
    type=click.Choice(["objects", "events"]),
    help="One moving object in each clip, or several that come and go.",
)
@click.option("--events", type=int, help="Events: how many in each clip, 2 to 5; default 3.")
@click.option("--clutter", type=int, help="Events: still shapes in each background, 0 to 40; default 6.")
@click.option("--twins", type=float, help="Events: share of training clips that have a twin, 0 to 1; default 0.1.")
def corpus(out: Path, videos: int, seed: int, kind: str, **difficulty: Any) -> dict[str, Any]:
    """Write captioned videos of moving objects: DIR/videos and DIR/captions.csv.

    One object a clip: with 600 videos or more, test has 240 and dev 80, in groups of four that differ only in their
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


@gare_command("prepare", short_help="Decode and sample videos into Arrow shards.")
@click.argument("manifest")
@click.option("--out", required=True, help="Folder or address (s3://...) of the shards and the ledger.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(),
    help="A YAML file of settings; see prepare.*, runtime.decode_workers and runtime.decode_on.",
)
@click.option("--retry-failed", is_flag=True, help="Decode again the videos that failed before.")
@click.option(
    "--changed",
    type=click.Choice(["refuse", "redo", "ignore"]),
    default="refuse",
    help="How to handle videos whose source changed since: fail, decode them again, or do not check.",
)
@click.option(
    "--local/--ray",
    default=None,
    help="Decode on this machine alone, without Ray, or with Ray. By default without it where RAY_ADDRESS names no "
    "cluster and at most 200 videos are to be decoded; the files are the same.",
)
@config_options
def prepare(
    manifest: str, out: str, config_file: str | None, overrides: tuple[str, ...], **options: Any
) -> dict[str, Any]:
    """Decode and sample the videos of MANIFEST into Arrow shards, with a ledger row for every one.

    If it is interrupted, run the same command again and it continues. It also adds the rows that are new in MANIFEST. A
    video that cannot be decoded becomes a row of the ledger (OUT/ledger/*.parquet) with the reason; it never stops the
    job.

    \b
    Examples:
      gare prepare manifest.parquet --out shards
      gare prepare manifest.parquet --out shards --local
      gare prepare manifest.parquet --out shards --set prepare.max_frames=16 --set prepare.storage=jpeg
      gare prepare manifest.parquet --out s3://bucket/shards --retry-failed
    """
    from gare.api import prepare as api

    report = api.prepare(manifest, out, config_file, set=overrides, **options)
    _print(report)
    counts = {name: getattr(report, name) for name in REPORTED}
    return {"out": str(report.out), **counts}


def _print(report: PrepareReport) -> None:
    totals = report.totals
    rows: list[list[object]] = [["ok", totals["ok"]]]
    for status in ("filtered", "failed"):
        rows += [[f"{status} ({reason})", count] for reason, count in totals[status].items()]
    print_table(f"Shards {report.out}", ["outcome", "videos"], rows)
    note(
        f"{report.videos} videos in {report.seconds:.1f} s ({report.videos_per_s:.1f}/s), "
        f"{totals['frames']} frames, {totals['bytes'] / 1e6:.1f} MB"
        + (f"; {report.units_skipped} units were finished before" if report.units_skipped else "")
    )
