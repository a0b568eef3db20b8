"""``gare index``, ``gare search`` and ``gare register``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gare.cli.command import SPLIT, config_options, gare_command
from gare.common.console import note, print_table, say
from gare.common.errors import InputError
from gare.common.text import open_lines


@gare_command("index", short_help="Encode the videos of a split for search; change or check an index.")
@click.argument("source", required=False)
@click.option("--shards", help="Folder or address of gare prepare.")
@SPLIT
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the index.")
@click.option("--append", is_flag=True, help="Add the videos that the index does not have yet, instead of a new index.")
@click.option(
    "--storage",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Type the frame vectors are kept in; float32 takes twice the room. --append keeps the index's own.",
)
@click.option(
    "--stage-above",
    type=click.IntRange(min=0),
    default=50_000,
    show_default=True,
    metavar="VIDEOS",
    help="Above this number of videos, fit a first stage, so that a search scores few of them.",
)
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    help="Text file with a sentence a line, like those you will search with, to fit the first stage on; the captions "
    "of the shards by default.",
)
@click.option(
    "--previews/--no-previews", default=True, help="Keep small pictures of each video, for gare serve (17 KB)."
)
@click.option(
    "--windows/--no-windows",
    default=True,
    help="Keep vectors by which a search tells the seconds that fit best (12 KB at 12 frames).",
)
@click.option(
    "--local/--ray",
    default=None,
    help="Encode in this process, or in actors of Ray (runtime.index_workers). By default in actors if the split has "
    "more than 10,000 videos.",
)
@click.option("--delete", multiple=True, metavar="ID", help="Take a video out of the index; repeat it for more.")
@click.option("--compact", is_flag=True, help="Write the index again without its deleted videos, as few large files.")
@click.option("--check", is_flag=True, help="Read all files of the index, and measure its first stage again.")
@click.option("--checkpoint", help="To change or check an index: where its model is now, if you moved it.")
@config_options
def index(
    source: str | None,
    shards: str | None,
    split: str,
    out: Path,
    delete: tuple[str, ...],
    compact: bool,
    check: bool,
    checkpoint: str | None,
    queries: Path | None,
    overrides: tuple[str, ...],
    **options: Any,
) -> dict[str, Any]:
    """Encode the videos of a split with SOURCE, for search.

    SOURCE is a checkpoint, a run's folder for its best one, or a CLIP's folder or hub id: search without training, by
    the mean of a video's frames. A change of an index takes effect at once, at the end: if the command stops before
    that, the index answers as it did, and the same command continues.

    \b
    Examples:
      gare index runs/demo --shards shards --split test --out index
      gare index openai/clip-vit-base-patch32 --shards shards --split test --out index
      gare index runs/demo --shards more-shards --out index --append
      gare index --out index --delete video7 --delete video9 --compact --check
    """
    from gare.api import search as api

    if delete or compact or check:
        if source is not None or shards is not None or options["append"]:
            raise InputError("--delete, --compact and --check take --out alone, with no source and no shards.")
        made = api.maintain(out, delete=delete, compact=compact, check=check, checkpoint=checkpoint)
    elif source is None or shards is None:
        raise InputError("Give a source and --shards to make an index; --delete, --compact or --check to change one.")
    else:
        lines = None if queries is None else _sentences(queries)
        made = api.index(source, shards, split, out=out, queries=lines, set=overrides, **options)
    note(f'{out}: {len(made)} videos; search them with: gare search {out} "..."')
    recall, values = made.record.recall, {"out": str(made.folder), "videos": len(made), "checkpoint": made.checkpoint}
    if recall is None:
        return values | {"recall": None}
    count = made.candidates(10)
    if count < len(made):
        note(f"A search scores {count:,} of them, which hold {100 * recall.at(count):.1f} % of the exact top 10.")
    return values | {"recall": asdict(recall)}


@gare_command("search", short_help="Find the videos that a sentence describes.")
@click.argument("index_folder", metavar="INDEX", type=click.Path(path_type=Path))
@click.argument("query", required=False)
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="How many files to list.")
@click.option("--like", metavar="VIDEO", help="Find videos like this one of the index, in place of a query.")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only videos with this attribute; repeat for more.")
@click.option("--exact", is_flag=True, help="Score every video, also where the index has a first stage.")
@click.option(
    "--first-stage",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score this many candidates of the first stage, instead of what the index chooses by its own recall.",
)
@click.option("--checkpoint", help="Where the index's model is now, if you moved it.")
def search(index_folder: Path, query: str | None, top: int, where: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Find the videos in INDEX that QUERY describes, or those like one of them.

    Clips of one file stand together, five at most. The seconds are those of the file that fit the query best; indexes
    made with --no-windows do not tell them.

    \b
    Examples:
      gare search index "a small red circle moving left" --top 5
      gare search index "a circle" --where colour=red --exact
      gare search index --like test_00042
    """
    from gare.api import search as api

    wanted = dict(_attribute(text) for text in where)
    hits = api.search(index_folder, query, top, where=wanted, by_file=True, **options)
    timed = any(hit.seconds for hit in hits)
    columns = ["rank", "score", "video", *(["seconds"] if timed else []), "path"]
    rows = [
        [hit.rank, f"{hit.score:.3f}", hit.video_id, *([_span(hit.seconds)] if timed else []), hit.uri] for hit in hits
    ]
    print_table(f"“{query}”" if query is not None else f"like {options['like']}", columns, rows)
    note(f"{hits.searched}.".capitalize())
    values = {"query": query, "like": options["like"], "where": wanted, "hits": [asdict(hit) for hit in hits]}
    return values | {"searched": asdict(hits.searched) | {"partial": hits.searched.partial}}


def _span(seconds: tuple[float, float] | None) -> str:
    return "" if seconds is None else f"{seconds[0]:.1f}-{seconds[1]:.1f}"


def _sentences(path: Path) -> list[str]:
    try:
        with open_lines(path) as lines:
            return [line.strip() for line in lines]
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text: {error}.") from None


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InputError(f"--where {text}: give an attribute and its value, as in --where colour=red.")
    return name, value


@gare_command("register", short_help="Put a run's best model into MLflow's registry.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the registered model; it gets its next version.")
@click.option("--index", type=click.Path(path_type=Path), help="Index of the videos to search; made if not given.")
@click.option("--shards", help="Without --index: folder or address of gare prepare; the run's own by default.")
@click.option("--split", default="test", show_default=True, help="Without --index: split whose videos are searched.")
def register(run: Path, name: str, index: Path | None, shards: str | None, split: str) -> dict[str, Any]:
    """Put the best checkpoint of RUN, the folder of a run or a sweep, into MLflow's registry with videos to search.

    The model answers sentences: mlflow.pyfunc.load_model("models:/NAME/1").predict({"query": "a red ball"}) gives
    a row per video, best first: query, rank, video_id, score; a column top says how many.

    \b
    Examples:
      gare register runs/demo --name videos
      gare register runs/weights --name videos --index index
      mlflow models serve -m models:/videos/1 --env-manager local
    """
    from gare.api.register import best_run, register_run

    folder = best_run(run)
    done = register_run(folder, name, index=index, shards=shards, split=split)
    say(f"{done.address} is registered; mlflow.pyfunc.load_model takes this address.")
    return asdict(done) | {"run": str(folder)}
