"""``gare manifest msrvtt`` and the other benchmarks: make a manifest from published annotation files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import PLACE, gare_command, with_options
from gare.common.console import note, print_table, warn
from gare.common.errors import InputError
from gare.common.occupied import refuse_part

if TYPE_CHECKING:
    from pipelines.manifest.benchmarks.build import Made

_COLUMNS = {
    "published": "published",
    "annotated": "annotated",
    "taken_for_dev": "to dev",
    "uncaptioned": "no caption",
    "missing": "no file",
    "videos": "videos",
    "captions": "captions",
}


_FILES = with_options(
    click.option("--annotations", required=True, type=PLACE, help="Folder of the annotation files."),
    click.option(
        "--videos", required=True, type=PLACE, help="Folder of the video files, searched with its subfolders."
    ),
    click.option("--out", required=True, type=PLACE, help="The manifest to write (Parquet)."),
    click.option("--strict", is_flag=True, help="Write nothing unless every published video and caption is there."),
)
_MOMENTS = click.option("--moments", is_flag=True, help="Write a row for each described moment instead of each video.")


@gare_command("msrvtt", short_help="Make a manifest of MSR-VTT.")
@_FILES
@click.option("--train", type=click.Choice(["9k", "7k"]), default="9k", help="The train list.")
@click.option(
    "--test",
    type=click.Choice(["1k-A", "full"]),
    default="1k-A",
    help="The test split: 1,000 videos with one query each, or 2,990 with all their captions.",
)
def msrvtt(**arguments: Any) -> dict[str, Any]:
    """Make a manifest of MSR-VTT.

    The annotation files are MSRVTT_data.json (the captions), MSRVTT_train.9k.csv or MSRVTT_train.7k.csv,
    MSRVTT_val.full.csv, and MSRVTT_JSFUSION_test.csv (1k-A) or MSRVTT_test.full.csv. Dev is the official
    validation split, removed from the train list, which contains it. The 9k list also contains most of the full test
    split, so you can use it with 1k-A only.

    \b
    Examples:
      gare manifest msrvtt --annotations msrvtt --videos msrvtt/videos --out manifest.parquet
      gare manifest msrvtt --annotations msrvtt --videos msrvtt/videos --out full.parquet --train 7k --test full
    """
    return _make("msrvtt", **arguments)


@gare_command("didemo", short_help="Make a manifest of DiDeMo.")
@_FILES
@_MOMENTS
def didemo(**arguments: Any) -> dict[str, Any]:
    """Make a manifest of DiDeMo: a video's descriptions are one paragraph, and videos end at 30 s.

    With --moments, a row is what one description is about: the segments of 5 s that most annotators gave for it.

    The annotation files are train_data.json, val_data.json (dev) and test_data.json. Video files may have any
    extension.

    \b
    Example:
      gare manifest didemo --annotations didemo --videos didemo/videos --out manifest.parquet
    """
    return _make("didemo", **arguments)


@gare_command("activitynet", short_help="Make a manifest of ActivityNet Captions.")
@_FILES
@click.option(
    "--dev-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    help="Share of train that becomes dev.",
)
@click.option("--seed", type=int, default=0, help="Seed by which dev is drawn.")
@_MOMENTS
def activitynet(**arguments: Any) -> dict[str, Any]:
    """Make a manifest of ActivityNet Captions: a video's sentences are one paragraph.

    The annotation files are train.json and val_1.json (the test split). If there are train_ids.json and val_ids.json,
    only the videos they list count. There is no official split to choose a checkpoint on, so dev is drawn from train by
    the videos' ids. Files are named v_ID or ID. With --moments, a row is what one sentence describes; all moments of a
    video are in its split.

    \b
    Example:
      gare manifest activitynet --annotations activitynet --videos activitynet/videos --out manifest.parquet
    """
    return _make("activitynet", **arguments)


@gare_command("msvd", short_help="Make a manifest of MSVD.")
@_FILES
def msvd(**arguments: Any) -> dict[str, Any]:
    """Make a manifest of MSVD: many captions per video, each of them a query.

    The annotation files are train_list.txt, val_list.txt (dev), test_list.txt and raw-captions.pkl. The pickle is read
    as plain lists of words; nothing in it is run, and the command fails if it asks for more.

    \b
    Example:
      gare manifest msvd --annotations msvd --videos msvd/YouTubeClips --out manifest.parquet
    """
    return _make("msvd", **arguments)


@gare_command("lsmdc", short_help="Make a manifest of LSMDC.")
@_FILES
def lsmdc(**arguments: Any) -> dict[str, Any]:
    """Make a manifest of LSMDC 2016: movie clips, each a file of its own.

    The annotation files are LSMDC16_annos_training.csv, LSMDC16_annos_val.csv (dev) and
    LSMDC16_challenge_1000_publictect.csv (test).

    \b
    Example:
      gare manifest lsmdc --annotations lsmdc --videos lsmdc/videos --out manifest.parquet
    """
    return _make("lsmdc", **arguments)


def _make(
    name: str, *, annotations: Path, videos: Path, out: Path, strict: bool, **protocol: Any
) -> dict[str, Any]:  # fmt: skip
    from pipelines.manifest.benchmarks import BENCHMARKS
    from pipelines.manifest.benchmarks.annotations import Options
    from pipelines.manifest.benchmarks.build import make_manifest, write_missing
    from pipelines.manifest.rows import write_manifest

    refuse_part(out)
    made = make_manifest(BENCHMARKS[name], annotations, videos, Options(**protocol), strict=strict)
    if out.is_file() and any(out.samefile(path) for path in made.used):
        raise InputError(f"--out {out} is an annotation file; give another place for the manifest.")
    write_manifest(made.table, out)
    listed = out.with_name(f"{out.name}.missing.csv")
    if made.missing or listed.exists():
        write_missing(made.missing, listed)
    _show(made, annotations, videos, out, listed)
    return {
        "manifest": str(out), "benchmark": name, "protocol": protocol, "rows": made.table.num_rows,
        "videos": sum(counts.videos for counts in made.counts.values()),
        "splits": {split: asdict(counts) for split, counts in made.counts.items()}, "absent": made.absent,
        "missing": len(made.missing), "missing_list": str(listed) if made.missing else None,
        "several_files": len(made.several),
    }  # fmt: skip


def _show(made: Made, annotations: Path, videos: Path, out: Path, listed: Path) -> None:
    """Print the counts, then every difference from the published numbers and what to do about it."""
    from pipelines.manifest.rows import some

    rows = [
        [split, *("" if getattr(counts, key) is None else getattr(counts, key) for key in _COLUMNS)]
        for split, counts in made.counts.items()
    ]
    print_table(f"Manifest {out}", ["split", *_COLUMNS.values()], rows)
    for split, files in made.absent.items():
        warn(f"There is no {split} split: {annotations} does not hold {' and '.join(files)}.")
    for text in made.notes:
        note(text)
    videos_there = sum(counts.videos for counts in made.counts.values())
    if made.table.num_rows != videos_there:
        note(f"{made.table.num_rows:,} moments of {videos_there:,} videos are a row each.")
    for split, counts in made.counts.items():
        for text in counts.differences():
            warn(f"The {split} split of {annotations} has {text}: results will not be comparable with published ones.")
        if counts.empty_captions:
            note(f"{counts.empty_captions:,} empty captions of the {split} split were dropped.")
    if made.several:
        first, files = next(iter(made.several.items()))
        note(
            f"{some(list(made.several))} there in several files; one of each was taken, "
            f"such as {files[0]} and not {files[1]} for {first}."
        )
    if made.missing:
        warn(
            f"{some([video.video_id for video in made.missing])} missing in {videos} and not in the manifest; {listed} "
            "lists them all. Add their files and run this again, or continue without them: results on a test split "
            "with missing videos are not comparable with published ones."
        )
