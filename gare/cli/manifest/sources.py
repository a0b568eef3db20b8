"""``gare manifest csv``, ``jsonl``, ``parquet`` and ``folder``: from what others keep to a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gare.cli.command import gare_command
from gare.cli.manifest.options import folder_options, make_manifest, names_of, table_options
from gare.common.errors import InputError


@gare_command("csv", short_help="Make a manifest of a CSV file.")
@table_options
@click.option("--unquoted", is_flag=True, help="Quotes in FILE are text like any other, as in the TSVs of web crawls.")
@click.option("--header", metavar="COLUMN,...", help="Columns of a FILE that has no line naming them.")
def csv_command(*, file: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Make a manifest of a CSV file with the columns video_id, uri, split and captions.

    One row per caption, rows of the same video_id belonging together, or one row per video with a list of captions, as
    JSON, Python, pandas or numpy write it. A caption that is only nan, None, null or the like counts as missing.
    start_s and end_s bound a clip, in seconds. Where video_id is read from the same column as uri, it is the file's
    name without folder and suffix (with more of its path where two share a name, and with the times where a file has
    several clips). Videos without captions are dropped and counted.

    FILE is UTF-8, or UTF-16 with a byte order mark, and may be gzipped. When it is named .tsv, tabs separate its cells.

    \b
    Examples:
      gare manifest csv videos.csv --out manifest.parquet
      gare manifest csv videos.csv --out manifest.parquet --columns video_id=file,uri=file,captions=caption \\
        --root /data/videos --carve dev=0.1,test=0.1
      gare manifest csv crawl.tsv.gz --out manifest.parquet --unquoted --header captions,uri \\
        --columns video_id=uri --split train
    """
    from pipelines.manifest.sources import from_csv

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
    from pipelines.manifest.sources import from_jsonl

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
    from pipelines.manifest.sources import from_parquet

    return make_manifest(from_parquet, file, out, **options)


@gare_command("folder", short_help="Make a manifest of a folder of videos, without captions.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@folder_options
@click.option("--suffixes", metavar="NAME,...", help="Take the files with these suffixes, such as mp4,gif.")
@click.option("--segment", type=float, metavar="SECONDS", help="Cut each file into clips of this length, a row each.")
@click.option("--overlap", type=float, metavar="SECONDS", help="How much of a clip the next one repeats; 0 by default.")
def folder_command(
    *, folder: Path, out: Path, suffixes: str | None, segment: float | None, overlap: float | None, **options: Any
) -> dict[str, Any]:
    """Make a manifest of all video files below DIR, by their suffixes, without captions.

    A video's id is its path below DIR without suffix (the whole path where two share that). Such videos are prepared,
    indexed and searched with a model trained on others; they cannot be trained on or evaluated. Hidden files and
    folders are left out. So is what cannot be read or named, with a warning.

    With --segment a row is a clip of a file, such as film@00010.000-00020.000, with the file's id as attribute source.
    The last clip goes to the end of the file; a rest that would add less than half a clip is part of the one before.
    Every file is opened to measure it; those that cannot be measured are a row each, uncut.

    \b
    Examples:
      gare manifest folder /data/videos --out manifest.parquet
      gare manifest folder /data/films --out manifest.parquet --segment 10 --overlap 2
      gare prepare manifest.parquet --out shards
      gare index runs/demo --shards shards --split gallery --out index
    """
    from pipelines.manifest.sources import VIDEO_SUFFIXES, Segments, from_folder

    if overlap is not None and segment is None:
        raise InputError("--overlap is about the clips of --segment; give that, too.")
    segments = Segments(segment, overlap or 0.0) if segment is not None else None
    chosen = {name.lower().removeprefix(".") for name in names_of(suffixes)} or VIDEO_SUFFIXES
    return make_manifest(lambda path, read: from_folder(path, read, chosen, segments), folder, out, **options)
