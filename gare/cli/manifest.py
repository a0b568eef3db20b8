"""``gare manifest``: make a manifest from captions and videos; ``benchmarks.py`` has the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.benchmarks import activitynet, didemo, lsmdc, msrvtt, msvd
from gare.cli.command import PLACE, gare_command, with_options
from gare.common.console import note, print_table, warn
from gare.common.errors import InputError
from gare.common.occupied import refuse_part

if TYPE_CHECKING:
    from pipelines.manifest.sources.options import Made, SourceOptions

NAMED = 5

_OUT = click.option("--out", required=True, type=PLACE, help="The manifest to write (Parquet).")
_SPLITS = (
    click.option(
        "--carve",
        metavar="NAME=SHARE,...",
        help="Draw splits at random, such as dev=0.1,test=0.1; the rest is train. Clips of one file stay together.",
    ),
    click.option("--seed", type=int, default=0, help="Seed of --carve."),
)


_FOLDER_OPTIONS = with_options(
    _OUT,
    click.option("--split", metavar="NAME", help="Put every video into this split; gallery by default."),
    *_SPLITS,
)
_TABLE_OPTIONS = with_options(
    click.argument("file", type=PLACE),
    _OUT,
    click.option(
        "--columns",
        metavar="NAME=COLUMN,...",
        help="Which columns of FILE to read, such as video_id=file,uri=file.",
    ),
    click.option("--root", type=PLACE, help="Folder that relative paths start from; FILE's own folder by default."),
    click.option("--split", metavar="NAME", help="Put every video into this split."),
    *_SPLITS,
    click.option("--attributes", metavar="COLUMN,...", help="Columns to keep with each video, such as shape,colour."),
    click.option("--allow-uncaptioned", is_flag=True, help="Keep videos without a caption."),
)


@gare_command("csv", short_help="Make a manifest of a CSV file.")
@_TABLE_OPTIONS
@click.option("--unquoted", is_flag=True, help="Treat quotes in FILE as plain text, as in the TSVs of web crawls.")
@click.option("--header", metavar="COLUMN,...", help="Names of the columns, if FILE has no header line.")
def csv_command(*, file: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Make a manifest of a CSV file with the columns video_id, uri, split and captions.

    FILE has one row per caption, or one row per video with a list of captions as JSON, Python, pandas or numpy write
    it. A caption that is only nan, None, null or the like counts as missing. start_s and end_s bound a clip, in
    seconds. If video_id and uri are the same column, the id is the file's name without folder and suffix (with more of
    its path if two share a name, and with the times if a file has several clips). Videos without captions are dropped
    and counted.

    FILE is UTF-8, or UTF-16 with a byte order mark, and may be gzipped. In a file named .tsv, tabs separate the cells.

    \b
    Examples:
      gare manifest csv videos.csv --out manifest.parquet
      gare manifest csv videos.csv --out manifest.parquet --columns video_id=file,uri=file,captions=caption \\
        --root /data/videos --carve dev=0.1,test=0.1
      gare manifest csv crawl.tsv.gz --out manifest.parquet --unquoted --header captions,uri \\
        --columns video_id=uri --split train
    """
    from pipelines.manifest.sources.tables import from_csv

    return _make(from_csv, file, out, **options)


@gare_command("jsonl", short_help="Make a manifest of JSON lines.")
@_TABLE_OPTIONS
def jsonl_command(*, file: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Make a manifest of JSON lines: an object per line with the keys video_id, uri, split and captions.

    It works like gare manifest csv. captions is a list of strings or one string; several lines may belong to one video.
    attributes is an object; its entries are kept, and so are the keys of --attributes.

    \b
    Example:
      gare manifest jsonl clips.jsonl --out manifest.parquet --columns video_id=id,uri=path,captions=text \\
        --root /data/clips --carve dev=0.1
    """
    from pipelines.manifest.sources.tables import from_jsonl

    return _make(from_jsonl, file, out, **options)


@gare_command("parquet", short_help="Make a manifest of a Parquet file.")
@_TABLE_OPTIONS
def parquet_command(*, file: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Make a manifest of a Parquet file with the columns video_id, uri, split and captions.

    It works like gare manifest csv. captions is a column of strings or of lists of strings. attributes is a map or a
    struct; its entries are kept, and so are the columns of --attributes. Other columns are not read.

    \b
    Example:
      gare manifest parquet clips.parquet --out manifest.parquet --columns uri=path,captions=caption --split train
    """
    from pipelines.manifest.sources.tables import from_parquet

    return _make(from_parquet, file, out, **options)


@gare_command("folder", short_help="Make a manifest of a folder of videos, without captions.")
@click.argument("folder", metavar="DIR", type=PLACE)
@_FOLDER_OPTIONS
@click.option("--suffixes", metavar="NAME,...", help="Take the files with these suffixes, such as mp4,gif.")
@click.option("--segment", type=float, metavar="SECONDS", help="Cut each file into clips of this length, a row each.")
@click.option("--overlap", type=float, metavar="SECONDS", help="How much of a clip the next one repeats; 0 by default.")
def folder_command(
    *, folder: Path, out: Path, suffixes: str | None, segment: float | None, overlap: float | None, **options: Any
) -> dict[str, Any]:
    """Make a manifest of all video files below DIR, by their suffixes, without captions.

    A video's id is its path below DIR without suffix (the whole path if two share that). You can prepare, index and
    search such videos with a model trained on others; you cannot train on them or evaluate with them. Hidden files and
    folders are skipped. Files that cannot be read or named are skipped with a warning.

    With --segment, a row is a clip of a file, such as film@00010.000-00020.000, with the file's id as attribute source.
    The last clip reaches to the end of the file; a rest shorter than half a clip joins the one before. Every file is
    opened to measure it; a file that cannot be measured becomes one row, uncut.

    \b
    Examples:
      gare manifest folder /data/videos --out manifest.parquet
      gare manifest folder /data/films --out manifest.parquet --segment 10 --overlap 2
      gare prepare manifest.parquet --out shards
      gare index runs/demo --shards shards --split gallery --out index
    """
    from pipelines.manifest.sources.folder import VIDEO_SUFFIXES, Segments, from_folder

    if overlap is not None and segment is None:
        raise InputError("--overlap is about the clips of --segment; give that, too.")
    segments = Segments(segment, overlap or 0.0) if segment is not None else None
    chosen = {name.lower().removeprefix(".") for name in _names(suffixes)} or VIDEO_SUFFIXES
    return _make(lambda path, read: from_folder(path, read, chosen, segments), folder, out, **options)


@click.group("manifest", short_help="Make a manifest: one row per video.", context_settings={"max_content_width": 120})
def manifest() -> None:
    """Make a manifest: one row per video, with its file, split and captions.

    Use csv, jsonl or parquet for your own captions, folder for videos without captions, and the others for benchmarks.
    """


for _command in (
    csv_command,
    jsonl_command,
    parquet_command,
    folder_command,
    msrvtt,
    didemo,
    activitynet,
    msvd,
    lsmdc,
):
    manifest.add_command(_command)


def _make(
    read: Callable[[Path, SourceOptions], Made],
    source: Path,
    out: Path,
    *,
    split: str | None,
    carve: str | None,
    seed: int,
    columns: str | None = None,
    root: Path | None = None,
    attributes: str | None = None,
    allow_uncaptioned: bool = False,
    unquoted: bool = False,
    header: str | None = None,
) -> dict[str, Any]:
    """Read a source with the command line's options, write its manifest, print a summary and return it."""
    from pipelines.manifest.rows import splits_of, write_manifest
    from pipelines.manifest.sources.options import SourceOptions

    if split is not None and carve is not None:
        raise InputError("--split puts all videos into one split and --carve draws them; give one of the two.")
    if out.is_file() and source.is_file() and out.samefile(source):
        raise InputError(f"--out {out} is the file to read; give another place for the manifest.")
    refuse_part(out)
    options = SourceOptions(
        columns=_pairs("--columns", columns),
        root=root,
        split=split,
        carve=_shares(carve) if carve is not None else None,
        seed=seed,
        attributes=tuple(_names(attributes)),
        allow_uncaptioned=allow_uncaptioned,
        unquoted=unquoted,
        header=tuple(_names(header)),
    )
    made = read(source, options)
    write_manifest(made.table, out)
    splits = splits_of(made.table)
    _show(out, made, splits)
    return {
        "manifest": str(out), "rows": made.rows, "videos": made.table.num_rows, "splits": splits,
        "dropped_uncaptioned": made.uncaptioned, "dropped_captions": made.dropped_captions,
        "files_in_several_splits": list(made.in_several_splits), "left_out": dict(made.left_out),
        "not_segmented": dict(made.whole),
    }  # fmt: skip


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _show(out: Path, made: Made, splits: Mapping[str, Mapping[str, int]]) -> None:
    print_table(f"Manifest {out}", ["split", "videos", "captions"], [[k, *v.values()] for k, v in splits.items()])
    if made.dropped_captions:
        note(f"{made.dropped_captions:,} captions were missing (nan, None, null, ...) and were dropped.")
    if made.uncaptioned:
        note(f"{made.uncaptioned} videos without a caption were dropped; --allow-uncaptioned keeps them.")
    if made.left_out:
        warn(f"{len(made.left_out):,} files or folders are not in the manifest: {_some(made.left_out)}.")
    if made.whole:
        warn(
            f"{len(made.whole):,} files could not be measured and are a row each, uncut: {_some(made.whole)}. "
            "gare prepare records why they fail."
        )
    if made.in_several_splits:
        warn(
            f"{len(made.in_several_splits):,} files have rows in more than one split, such as "
            f"{made.in_several_splits[0]}: a test on them is not a test on unseen videos."
        )
    without = [name for name, counts in splits.items() if not counts["captions"]]
    if without:
        note(
            f"No captions in {', '.join(without)}: such videos can be prepared, indexed and searched, but neither "
            "trained on nor evaluated."
        )


def _some(reasons: Mapping[str, str]) -> str:
    """Name the first few, each with its reason."""
    named = "; ".join(f"{name} ({reason.rstrip('.')})" for name, reason in islice(reasons.items(), NAMED))
    return f"{named}; ..." if len(reasons) > NAMED else named


def _pairs(option: str, text: str | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in (text or "").split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not part.strip():
            continue
        if not (name and equals and value) or name in pairs:
            raise InputError(f"{option} {part!r} is not of the form NAME=VALUE, each name once, with commas between.")
        pairs[name] = value
    return pairs


def _shares(text: str) -> dict[str, float]:
    try:
        return {name: float(share) for name, share in _pairs("--carve", text).items()}
    except ValueError:
        raise InputError(f"--carve {text!r} needs numbers as shares, such as dev=0.1,test=0.1.") from None
