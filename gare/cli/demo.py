"""``gare demo``: run everything at a small size; every stage is a command that you could type."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from gare.cli.command import EMBEDDED, PLACE, gare_command
from gare.common.addresses import sqlite_uri
from gare.common.console import note, output, say
from gare.common.files import make_folder, write_text
from gare.common.occupied import refuse_occupied


@dataclass(frozen=True)
class Stage:
    """One command of the demo and its purpose."""

    name: str
    says: str
    arguments: tuple[str, ...]


# fmt: off
def stages(out: Path, videos: int) -> Iterator[Stage]:
    """Yield the demo's commands in order, all below the folder ``out``; run each before you take the next."""
    config, manifest, shards, run = f"{out}/demo.yaml", f"{out}/manifest.parquet", f"{out}/shards", f"{out}/runs/demo"
    columns, attributes = "video_id=video_id,uri=file,captions=caption", "shape,colour,size,motion"
    test = ("--shards", shards, "--split", "test")
    yield Stage("corpus", "Write a small captioned corpus of real video files.",
                ("corpus", "--out", f"{out}/corpus", "--videos", str(videos)))
    yield Stage("manifest", "List its videos with their captions.",
                ("manifest", "csv", f"{out}/corpus/captions.csv", "--columns", columns, "--attributes", attributes,
                 "--root", f"{out}/corpus", "--out", manifest))
    yield Stage("prepare", "Decode and sample every video into Arrow shards, with Ray Data.",
                ("prepare", manifest, "--ray", "--out", shards, "--config", config))
    yield Stage("make-clip", "Make a small CLIP from scratch, its tokenizer trained on the captions.",
                ("make-clip", manifest, "--out", f"{out}/clip", "--image-size", "64"))
    yield Stage("train", "Train GARE on the shards, with Ray Train.", ("train", config))
    yield Stage("evaluate", "Measure retrieval on the test split; write a report page and a picture of some queries.",
                ("evaluate", run, *test, "--sheet", f"{out}/contact-sheet.png"))
    yield Stage("evaluate-middle", "The same checkpoint when each frame of a clip is its middle one: no motion to see.",
                ("evaluate", run, *test, "--frames", "middle"))
    yield Stage("index", "Encode the test videos for search.", ("index", run, *test, "--out", f"{out}/index"))
    yield Stage("search", "Search them.", ("search", f"{out}/index", _a_test_caption(manifest), "--top", "5"))
    yield Stage("sweep", "Try the regulariser weights, with Ray Tune; each trial is a short Ray Train run.",
                ("sweep", config, *_set("runtime.name=sweep", "train.epochs=6", "runtime.workers=1")))
    yield Stage("compare", "Compare the trials.", ("compare", f"{out}/runs/sweep"))


# fmt: on
def _set(*overrides: str) -> list[str]:
    return [argument for override in overrides for argument in ("--set", override)]


@gare_command("demo", short_help="Run the whole path at a small size.")
@click.option("--out", default="demo", type=PLACE, help="Folder for all that the demo makes.")
@click.option("--videos", default=1800, type=click.IntRange(min=600), help="How many videos the corpus has.")
def demo(out: Path, videos: int) -> dict[str, Any]:
    """Run the whole path at a small size: corpus, manifest, shards, training, retrieval, search, sweep.

    It takes less than ten minutes on two cores. Before each stage it prints the command that runs that stage alone. Run
    it again after an interruption and it skips the stages that are finished.
    """
    from gare.config.tree import load_config
    from gare.launch.ray_session import ray_session

    started = time.monotonic()
    refuse_occupied(out)
    make_folder(out)
    _write_config(out)
    config = load_config(out / "demo.yaml")
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    # All stages share one Ray; a command that runs alone starts its own.
    with ray_session(config.runtime):
        for number, stage in enumerate(stages(out, videos), start=1):
            if stage.name == "compare":
                _say_retrieval(out, results)
            command = f"$ gare {shlex.join(stage.arguments)}"
            output().print(f"\n[bold]{number}. {stage.says}[/bold]\n{escape(command)}", soft_wrap=True)
            begun = time.monotonic()
            results[stage.name] = invoke(stage.arguments)
            seconds[stage.name] = round(time.monotonic() - begun, 1)
    database = shlex.quote(sqlite_uri((out / "runs" / "mlflow.db").resolve()))
    page = f"\nMLflow page, experiment {config.runtime.experiment}: mlflow ui --backend-store-uri {database}"
    say(page)
    note("seconds per stage: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    say(f"Report of the test split, to look at: {results['evaluate']['report']}")
    say(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")
    return {"out": str(out), "seconds": seconds, "results": results}


def invoke(arguments: Sequence[str]) -> Any:
    """Run a command of this program in this process and return its result."""
    program: Any = click.get_current_context().find_root().command
    try:
        return program.main(args=list(arguments), standalone_mode=False, obj=EMBEDDED, prog_name="gare")
    except click.exceptions.Abort as aborted:  # click raises it for Ctrl-C
        raise aborted.__cause__ or KeyboardInterrupt() from None


def _write_config(out: Path) -> None:
    """Write the shipped settings with this demo's paths."""
    from gare.config.tree import load_config, to_yaml, with_overrides

    with_places = with_overrides(
        load_config(Path(str(files("gare") / "configs" / "demo.yaml"))),
        {
            "model.clip": str(out / "clip"),
            "runtime.shards": str(out / "shards"),
            "runtime.output": str(out / "runs"),
            "runtime.name": "demo",
        },
    )
    write_text(out / "demo.yaml", to_yaml(with_places))


def _a_test_caption(manifest: str) -> str:
    """Return a query with an answer in the index: the last test video's first caption."""
    from pipelines.manifest.load import load_manifest

    rows = load_manifest(Path(manifest)).select(["split", "captions"]).to_pylist()
    return str([row["captions"][0] for row in rows if row["split"] == "test"][-1])


def _say_retrieval(out: Path, results: dict[str, Any]) -> None:
    from gare.cli.evaluate import print_metrics

    say("")
    print_metrics("Test split, all frames", results["evaluate"])
    print_metrics("Test split, every frame replaced by the middle one", results["evaluate-middle"])
    whole, middle = results["evaluate"]["t2v/R@1"], results["evaluate-middle"]["t2v/R@1"]
    lower = f"{whole - middle:.1f} points lower"
    say(f"Text-to-video R@1: {whole:.1f} %, and {middle:.1f} % where no frame shows motion ({lower}).")
    say(f"Contact sheet: {out}/contact-sheet.png")
