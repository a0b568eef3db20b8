"""``gare shards stat``, ``merge`` and ``split``: work with finished datasets, your own or other people's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import gare_command
from gare.cli.inspect import recipe_rows
from gare.common.console import meter, note, print_table, say, warn
from gare.common.errors import InputError, RunError
from gare.common.storage import Folder

if TYPE_CHECKING:
    from pipelines.dataset.tools.split import Cut
    from pipelines.dataset.tools.target import Made

PRINTED = 20


@click.group(
    "shards", short_help="Inspect, merge and cut datasets of shards.", context_settings={"max_content_width": 120}
)
def shards() -> None:
    """Inspect, merge and cut datasets: finished folders of gare prepare, or ones you downloaded.

    A dataset is the file dataset.json and the shards it lists. merge and split check all of it before they use it.
    """


@gare_command("stat", short_help="Print what a dataset's shards hold, and verify them.")
@click.argument("folder", metavar="DIR")
@click.option("--verify", is_flag=True, help="Compute every digest again and check every row.")
def stat(*, folder: str, verify: bool) -> dict[str, Any]:
    """Print what the shards of DIR, a folder or an address, hold: rows, frames, bytes, splits, sizes, recipe.

    --verify computes the SHA-256 of every shard, runs Arrow's full validation, checks the frames and times of each row,
    and compares dataset.json with the shards. It lists everything that is wrong and then exits with code 4.
    For a folder of gare prepare, gare inspect shows more: outcomes, the manifest, and whether the sources changed.

    \b
    Examples:
      gare shards stat shards
      gare shards stat download/msrvtt --verify
    """
    from pipelines.dataset.tools import check

    with meter("shards") as progress:
        result = check.stat(Folder.at(folder), verify=verify, on_progress=progress.count)
    _print_figures(result)
    wrong = result["problems"]
    for text in wrong[:PRINTED]:
        say(text) if verify else warn(text)
    if verify and wrong:
        raise RunError(
            f"{folder} is not what its dataset.json says, in {len(wrong)} places; get it again, or prepare it again.",
            result=result,
        )
    return result


@gare_command("merge", short_help="Make one dataset of several.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option("--out", required=True, help="Folder or address of the new dataset; new or empty.")
@click.option("--copy", is_flag=True, help="Copy the shards even where hard links would do.")
def merge(*, folders: tuple[str, ...], out: str, copy: bool) -> dict[str, Any]:
    """Make one dataset of the shards of DIR..., in this order. They must be of one recipe and share no video id.

    The shards are the same files under new names: hard links on the same disk, which take no space, or copies
    elsewhere. dataset.json is written last; if the command is interrupted, run it again and it continues.

    \b
    Example:
      gare shards merge shards-a shards-b --out shards
    """
    from pipelines.dataset.tools.merge import merge as merged

    with meter("shards") as progress:
        places = [Folder.at(folder) for folder in folders]
        made = merged(places, Folder.at(out), copy=copy, on_progress=progress.count)
    _print_made([made])
    return _plain(made)


@gare_command("split", short_help="Cut a dataset into several, or into other shards.")
@click.argument("folder", metavar="DIR")
@click.option("--out", required=True, help="Folder or address of the new datasets; new or empty.")
@click.option("--by", type=click.Choice(["split"]), help="A dataset for every split: OUT/train, OUT/test, ...")
@click.option(
    "--parts", type=click.IntRange(min=1), help="This many datasets of consecutive videos: OUT/part-0000, ..."
)
@click.option("--take", metavar="SPLIT", multiple=True, help="One dataset of this split; repeatable.")
@click.option("--ids", metavar="FILE", help="One dataset of these videos: a manifest, or a .txt with an id per line.")
@click.option("--allow-missing", is_flag=True, help="Skip videos of --ids that DIR does not have.")
@click.option(
    "--shard-bytes", type=click.IntRange(min=1), help="Close a shard at this size; by default as the recipe says."
)
def split(*, folder: str, out: str, shard_bytes: int | None, **how: Any) -> dict[str, Any]:
    """Cut DIR into datasets below OUT (--by, --parts), or take some of it as one dataset in OUT (--take, --ids).

    --shard-bytes alone takes all of it, in shards of another size. Rows stay as they are, bit for bit, and in the
    order of DIR. dataset.json is written last; if the command is interrupted, run it again and it continues.

    \b
    Examples:
      gare shards split shards --by split --out cut
      gare shards split shards --take test --out shards-test
      gare shards split shards --ids subset.txt --out subset --shard-bytes 64000000
    """
    from pipelines.dataset.tools import split as ways

    cut = _cut(**how, recut=shard_bytes is not None)
    with meter("shards") as progress:
        made = ways.split(Folder.at(folder), Folder.at(out), cut, shard_bytes=shard_bytes, on_progress=progress.count)
    _print_made(list(made.values()))
    found = sum(one.values["totals"]["ok"] for one in made.values())
    if cut.asked is not None and found < cut.asked:
        warn(f"{cut.asked - found} of the {cut.asked} videos of {how['ids']} are not in {folder}.")
    return {"datasets": {name or ".": _plain(one) for name, one in made.items()}}


for _command in (stat, merge, split):
    shards.add_command(_command)


def _cut(
    *, by: str | None, parts: int | None, take: tuple[str, ...], ids: str | None, allow_missing: bool, recut: bool
) -> Cut:
    from pipelines.dataset.tools import split as ways

    given = [name for name, value in {"--by": by, "--parts": parts, "--take": take, "--ids": ids}.items() if value]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are two ways to cut; give one of them.")
    if allow_missing and not ids:
        raise InputError("--allow-missing is about --ids, which is not given.")
    if by:
        return ways.by_split()
    if parts:
        return ways.in_parts(parts)
    if take:
        return ways.of_splits(take)
    if ids:
        return ways.of_ids(ids, allow_missing=allow_missing)
    if recut:
        return ways.whole()
    raise InputError("Say how to cut: --by split, --parts N, --take SPLIT, --ids FILE or --shard-bytes N.")


def _plain(made: Made) -> dict[str, Any]:
    values = made.values
    kept = {name: values[name] for name in ("digest", "recipe_digest", "splits", "totals", "made_from")}
    return {"folder": str(made.place), "shards": len(values["shards"]), **kept, "reused": made.reused}


def _print_made(made: list[Made]) -> None:
    columns = ["dataset", "splits", "shards", "videos", "frames", "MB", "digest"]
    rows = []
    for one in made:
        values, totals = one.values, one.values["totals"]
        counts = [len(values["shards"]), totals["ok"], totals["frames"], totals["bytes"] / 1e6]
        rows.append([str(one.place), ", ".join(values["splits"]), *counts, values["digest"]])
    print_table("Datasets", columns, rows)
    for one in made:
        if one.reused:
            note(f"{one.place} was there already, made of the same.")


def _print_figures(result: dict[str, Any]) -> None:
    listed = result["shards"]
    shown = [[shard["file"], shard["rows"], shard["bytes"] / 1e6] for shard in listed[:PRINTED]]
    if len(listed) > PRINTED:
        rest = listed[PRINTED:]
        shown.append([f"{len(rest)} others", sum(s["rows"] for s in rest), sum(s["bytes"] for s in rest) / 1e6])
    print_table(f"Shards of {result['folder']}", ["file", "videos", "MB"], shown)
    splits = [[name, counts["videos"], counts["captions"]] for name, counts in result["splits"].items()]
    print_table("Splits", ["split", "videos", "captions"], splits)
    kinds = [["codec", *pair] for pair in result["frame_codecs"].items()]
    kinds += [["size", *pair] for pair in list(result["frame_sizes"].items())[:PRINTED]]
    print_table("Stored frames", ["", "value", "videos"], kinds)
    print_table("Recipe", ["key", "value"], recipe_rows(result["recipe"]))
    size = result["bytes"]
    note(
        f"{len(listed)} shards, {result['rows']} videos, {result['frames']} frames, {size['total'] / 1e6:,.1f} MB "
        f"(a shard {size['min'] / 1e6:,.1f} to {size['max'] / 1e6:,.1f} MB); digest {result['digest']}, recipe "
        f"{result['recipe_digest']}; "
        + (f"verified: {len(result['problems'])} problems" if result["verified"] else "--verify checks every digest")
    )
