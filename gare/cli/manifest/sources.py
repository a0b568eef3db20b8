"""``gare manifest csv``, ``jsonl``, ``parquet`` and ``folder``: from what others keep to a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gare.cli.command import gare_command
from gare.cli.manifest.options import folder_options, make_manifest, names_of, table_options


@gare_command("csv", short_help="Make a manifest of a CSV file.")
@table_options
def csv_command(*, file: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Make a manifest of a CSV file with the columns video_id, uri, split and captions.

    One row per caption, rows of the same video_id belonging together, or one row per video with a JSON list of
    captions. start_s and end_s bound a clip, in seconds. Where video_id is read from the same column as uri, it is
    the file's name without folder and suffix (with more of its path where two share a name). Videos without captions
    are dropped and counted.

    \b
    Examples:
      gare manifest csv videos.csv --out manifest.parquet
      gare manifest csv videos.csv --out manifest.parquet --columns video_id=file,uri=file,captions=caption \\
        --root /data/videos --carve dev=0.1,test=0.1
    """
    from pipelines.sources import from_csv

    return make_manifest(from_csv, file, out, **options)


@gare_command("jsonl", short_help="Make a manifest of JSON lines.")
@table_options
def jsonl_command(*, file: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Make a manifest of JSON lines: an object per line with the keys video_id, uri, split and captions.

    All is as with gare manifest csv. captions is a list of strings or one string, and a line may be a caption of a
    video that others name too. attributes is an object; what it holds is kept, beside the keys of --attributes.

    \b
    Example:
      gare manifest jsonl clips.jsonl --out manifest.parquet --columns video_id=id,uri=path,captions=text \\
        --root /data/clips --carve dev=0.1
    """
    from pipelines.sources import from_jsonl

    return make_manifest(from_jsonl, file, out, **options)


@gare_command("parquet", short_help="Make a manifest of a Parquet file.")
@table_options
def parquet_command(*, file: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Make a manifest of a Parquet file with the columns video_id, uri, split and captions.

    All is as with gare manifest csv. captions is a column of strings or of lists of strings. attributes is a map or a
    struct; what it holds is kept, beside the columns of --attributes. Other columns are not read.

    \b
    Example:
      gare manifest parquet clips.parquet --out manifest.parquet --columns uri=path,captions=caption --split train
    """
    from pipelines.sources import from_parquet

    return make_manifest(from_parquet, file, out, **options)


@gare_command("folder", short_help="Make a manifest of a folder of videos, without captions.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@folder_options
@click.option("--suffixes", metavar="NAME,...", help="Take the files with these suffixes, such as mp4,gif.")
def folder_command(*, folder: Path, out: Path, suffixes: str | None, **options: Any) -> dict[str, Any]:
    """Make a manifest of all video files below DIR, by their suffixes, without captions.

    A video's id is its path below DIR without suffix (the whole path where two share that). Such videos are prepared,
    indexed and searched with a model trained on others; they cannot be trained on or evaluated. Hidden files are left
    out.

    \b
    Example:
      gare manifest folder /data/videos --out manifest.parquet
      gare prepare manifest.parquet --out shards
      gare index runs/demo --shards shards --split gallery --out index
    """
    from pipelines.sources import VIDEO_SUFFIXES, from_folder

    chosen = {name.lower().removeprefix(".") for name in names_of(suffixes)} or VIDEO_SUFFIXES
    return make_manifest(lambda path, read: from_folder(path, read, chosen), folder, out, **options)
