"""``gare inspect``: show the contents of a folder of prepared videos, and verify it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import PLACE, gare_command
from gare.common.console import meter, note, print_table, say, warn
from gare.common.errors import InputError, RunError
from gare.common.occupied import refuse_part

if TYPE_CHECKING:
    from pipelines.dataset.inspection.contents import Contents
    from pipelines.dataset.inspection.verify import Verdict

PRINTED_SIZES = 8
PRINTED_PROBLEMS = 50
PRINTED_NAMES = 6


@gare_command("inspect", short_help="Show what a folder of prepared videos holds, and verify it.")
@click.argument("folder", metavar="DIR", type=PLACE)
@click.option("--sheet", type=PLACE, help="Write a PNG of some videos' stored frames.")
@click.option("--videos", type=click.IntRange(min=1), default=12, help="Videos on the sheet.")
@click.option("--split", help="Draw the sheet's videos from this split.")
@click.option("--verify", is_flag=True, help="Check every digest and row, and decode a sample of the sources again.")
@click.option("--sample", metavar="N|all", default="16", help="How many sources --verify decodes again; 0 for none.")
@click.option("--seed", type=int, default=0, help="Seed by which the sheet and the sample are drawn.")
def inspect(
    *, folder: Path, sheet: Path | None, videos: int, split: str | None, verify: bool, sample: str, seed: int
) -> dict[str, Any]:
    """Print what DIR, a folder of gare prepare, holds: outcomes, splits, lengths, sizes, time spent decoding.

    It also lists videos of different splits that show the same: equal files, or overlapping clips of one file.

    You can inspect an unfinished folder too. --verify checks that the folder is as gare prepare left it and that the
    sources still give the stored frames, bit for bit. It lists every difference and exits with code 4 if there is one.
    A missing source is not a difference; it is listed as not verifiable.

    \b
    Examples:
      gare inspect shards
      gare inspect shards --sheet sheet.png --videos 20 --split test
      gare inspect shards --verify --sample all
    """
    from pipelines.dataset.inspection.contents import read_contents
    from pipelines.dataset.inspection.summary import draw_sheet, leak_sentence, leaks, summarise

    count = _count(sample)
    if sheet is not None:
        refuse_part(sheet)
    contents = read_contents(folder)
    summary = summarise(contents)
    _print(summary)
    remark, leaking = contents.remark(), leaks(contents)
    _print_leaks(leaking)
    for text in (*contents.damaged, *([leak_sentence(leaking)] if leaking else []), *([remark] if remark else [])):
        warn(text)
    result = {**summary, "leaks": leaking, "remark": remark}
    if sheet is not None:
        drawn = draw_sheet(contents, sheet, videos=videos, seed=seed, split=split)
        note(f"contact sheet of {drawn} videos: {sheet}")
        result["sheet"] = {"file": str(sheet), "videos": drawn}
    if verify:
        verdict = _verified(contents, count, seed)
        result["verify"] = asdict(verdict)
        if verdict.problems:
            raise RunError(
                f"{folder} differs in {len(verdict.problems)} places from what gare prepare left there, or its "
                "sources do; what is damaged is best prepared again into another folder.",
                result=result,
            )
    return result


def _count(sample: str) -> int | None:
    """Return the number of sources to decode again; None for all."""
    if sample == "all":
        return None
    if not sample.isdecimal():
        raise InputError(f"--sample is a number of videos or all, not {sample!r}.")
    return int(sample)


def _verified(contents: Contents, sample: int | None, seed: int) -> Verdict:
    from pipelines.dataset.inspection.verify import verify

    with meter("verified") as progress:
        verdict = verify(contents, sample=sample, seed=seed, on_progress=progress.count)
    for text in verdict.problems[:PRINTED_PROBLEMS]:
        say(text)
    if len(verdict.problems) > PRINTED_PROBLEMS:
        note(f"... and {len(verdict.problems) - PRINTED_PROBLEMS} more; --json lists all.")
    for text in verdict.unverifiable:
        warn(text)
    note(
        f"checked {verdict.shards} shards, {verdict.rows} ledger rows and {verdict.sources} sources decoded again: "
        f"{len(verdict.problems)} differences, {len(verdict.unverifiable)} sources not verifiable"
    )
    return verdict


def _print(summary: dict[str, Any]) -> None:
    outcomes = [[o["status"], o["reason"], o["notes"], o["videos"]] for o in summary["outcomes"]]
    print_table(f"Prepared videos in {summary['folder']}", ["outcome", "reason", "notes", "videos"], outcomes)
    columns = ["videos", "decoded", "captions", "uncaptioned", "hours"]
    print_table(
        "Splits", ["split", *columns], [[name, *(s[c] for c in columns)] for name, s in summary["splits"].items()]
    )
    print_table("Decoded videos", ["", "min", "median", "max", "total"], _spreads(summary))
    print_table("Kinds", ["", "value", "videos"], _kinds(summary))
    decode = summary["decode"]
    slowest = [[f"{row['decode_s']:.2f}", row["status"], row["video_id"], row["uri"]] for row in decode["slowest"]]
    print_table("Slowest", ["seconds", "outcome", "video", "file"], slowest)
    print_table("Recipe", ["key", "value"], recipe_rows(summary["recipe"]))
    _print_rest(summary)


def _print_leaks(groups: list[dict[str, Any]]) -> None:
    if not groups:
        return
    rows: list[list[object]] = []
    for group in groups[:PRINTED_SIZES]:
        names = [f"{video['video_id']} ({video['split']})" for video in group["videos"]]
        more = f", and {len(names) - PRINTED_NAMES} more" if len(names) > PRINTED_NAMES else ""
        rows.append([group["source_sha256"][:16], ", ".join(names[:PRINTED_NAMES]) + more])
    if len(groups) > PRINTED_SIZES:
        rows.append([f"{len(groups) - PRINTED_SIZES} others", "--json lists all"])
    print_table("The same in different splits", ["file", "videos"], rows)


def _print_rest(summary: dict[str, Any]) -> None:
    units, size, decode = summary["units"], summary["bytes"], summary["decode"]
    speed = f"{decode['videos_per_s']:.1f} videos/s a process" if decode["videos_per_s"] else "no time noted"
    note(f"{units['finished']} of {units['total']} work units finished; digest {summary['digest'] or '-'}")
    note(f"shards {size['shards'] / 1e6:,.1f} MB, sources {size['sources'] / 1e6:,.1f} MB")
    note(f"decoding took {decode['seconds']:,.1f} s of processes ({speed}); {decode['tried_again']} were tried again")


def _spreads(summary: dict[str, Any]) -> list[list[object]]:
    named = (("source seconds", summary["duration_s"]), ("stored frames", summary["frames"]))
    return [[name, *(f"{spread[k]:,g}" for k in ("min", "median", "max", "total"))] for name, spread in named if spread]


def _kinds(summary: dict[str, Any]) -> list[list[object]]:
    """List codecs and sizes, the most frequent of each."""
    rows: list[list[object]] = []
    for title, key in (("codec", "codecs"), ("source size", "source_sizes"), ("frame size", "frame_sizes")):
        counted = list(summary[key].items())
        rows += [[title, value, videos] for value, videos in counted[:PRINTED_SIZES]]
        rest = counted[PRINTED_SIZES:]
        if rest:
            rows.append([title, f"{len(rest)} others", sum(videos for _, videos in rest)])
    return rows


def recipe_rows(recipe: dict[str, Any]) -> list[list[object]]:
    """Return the settings of a recipe as rows of a table: dotted key, value."""
    from gare.config.tree import by_dotted_key

    return [[key, str(value)] for key, value in by_dotted_key(recipe, "prepare.").items()]
