"""``gare manifest csv``: from a CSV file of captions to a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gare.cli.command import gare_command
from gare.common.errors import InputError


@gare_command("csv", short_help="Make a manifest of a CSV file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The manifest to write (Parquet).")
@click.option(
    "--columns", metavar="NAME=COLUMN,...", help="Which columns of FILE to read, such as video_id=file,uri=file."
)
@click.option("--root", type=click.Path(path_type=Path), help="Folder of relative files; FILE's own folder by default.")
@click.option("--split", metavar="NAME", help="Put every video into this split.")
@click.option(
    "--carve", metavar="NAME=SHARE,...", help="Draw splits by video id, such as dev=0.1,test=0.1; the rest is train."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --carve.")
@click.option("--attributes", metavar="COLUMN,...", help="Columns to keep beside each video, such as shape,colour.")
@click.option("--allow-uncaptioned", is_flag=True, help="Keep videos without a caption.")
def csv_command(
    *, file: Path, out: Path, columns: str | None, root: Path | None, split: str | None, carve: str | None,
    seed: int, attributes: str | None, allow_uncaptioned: bool,
) -> dict[str, Any]:  # fmt: skip
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
    from gare.common.console import note, print_table
    from pipelines.manifest import splits_of, write_manifest
    from pipelines.manifest_csv import CsvOptions, from_csv

    if split is not None and carve is not None:
        raise InputError("--split puts all videos into one split and --carve draws them; give one of the two.")
    if out.is_file() and file.is_file() and out.samefile(file):
        raise InputError(f"--out {out} is the file to read; give another place for the manifest.")
    options = CsvOptions(
        columns=_pairs("--columns", columns),
        root=root,
        split=split,
        carve=_shares(carve) if carve is not None else None,
        seed=seed,
        attributes=tuple(name.strip() for name in (attributes or "").split(",") if name.strip()),
        allow_uncaptioned=allow_uncaptioned,
    )
    made = from_csv(file, options)
    write_manifest(made.table, out)
    splits = splits_of(made.table)
    print_table(f"Manifest {out}", ["split", "videos", "captions"], [[k, *v.values()] for k, v in splits.items()])
    if made.uncaptioned:
        note(f"{made.uncaptioned} videos without a caption were dropped; --allow-uncaptioned keeps them.")
    return {
        "manifest": str(out), "rows": made.rows, "videos": made.table.num_rows, "splits": splits,
        "dropped_uncaptioned": made.uncaptioned,
    }  # fmt: skip


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
