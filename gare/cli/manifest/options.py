"""What the commands that make a manifest of any source share: their options, and writing what was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.common.errors import InputError

if TYPE_CHECKING:
    from pipelines.manifest.sources import Made, SourceOptions

Command = Callable[..., Any]

NAMED = 5

_PLACE = click.Path(path_type=Path)
_OUT = click.option("--out", required=True, type=_PLACE, help="The manifest to write (Parquet).")
_SPLITS = (
    click.option(
        "--carve",
        metavar="NAME=SHARE,...",
        help="Draw splits by video id (clips: by file), such as dev=0.1,test=0.1; the rest is train.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of --carve."),
)


def folder_options(function: Command) -> Command:
    """Add the options of a source that has nothing but files."""
    split = click.option("--split", metavar="NAME", help="Split of every video; gallery unless --carve draws splits.")
    return _with(function, _OUT, split, *_SPLITS)


def table_options(function: Command) -> Command:
    """Add the argument FILE and the options of a table of captions."""
    return _with(
        function,
        click.argument("file", type=_PLACE),
        _OUT,
        click.option(
            "--columns",
            metavar="NAME=COLUMN,...",
            help="Which columns of FILE to read, such as video_id=file,uri=file.",
        ),
        click.option("--root", type=_PLACE, help="Folder of relative files; FILE's own folder by default."),
        click.option("--split", metavar="NAME", help="Put every video into this split."),
        *_SPLITS,
        click.option(
            "--attributes", metavar="COLUMN,...", help="Columns to keep beside each video, such as shape,colour."
        ),
        click.option("--allow-uncaptioned", is_flag=True, help="Keep videos without a caption."),
    )


def make_manifest(
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
    """Read a source with the options of the command line, write its manifest, print and return what it holds."""
    from gare.common.occupied import refuse_part
    from pipelines.manifest.rows import splits_of, write_manifest
    from pipelines.manifest.sources import SourceOptions

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
        attributes=tuple(names_of(attributes)),
        allow_uncaptioned=allow_uncaptioned,
        unquoted=unquoted,
        header=tuple(names_of(header)),
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


def names_of(text: str | None) -> list[str]:
    """The names between the commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _show(out: Path, made: Made, splits: Mapping[str, Mapping[str, int]]) -> None:
    from gare.common.console import note, print_table, warn

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
            f"{made.in_several_splits[0]}: a test on them is none of unseen videos."
        )
    without = [name for name, counts in splits.items() if not counts["captions"]]
    if without:
        note(
            f"No captions in {', '.join(without)}: such videos can be prepared, indexed and searched, but neither "
            "trained on nor evaluated."
        )


def _some(reasons: Mapping[str, str]) -> str:
    """The first few of what was not taken, with the reason of each."""
    named = "; ".join(f"{name} ({reason.rstrip('.')})" for name, reason in islice(reasons.items(), NAMED))
    return f"{named}; ..." if len(reasons) > NAMED else named


def _with(function: Command, *options: Callable[[Command], Command]) -> Command:
    for option in reversed(options):
        function = option(function)
    return function


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
