"""The front door: ``gare ...``. Commands import what they need when they run."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from gare import __version__
from gare.cli.config import config
from gare.cli.corpus import corpus
from gare.cli.demo import demo
from gare.cli.manifest import manifest
from gare.cli.prepare import prepare
from gare.cli.retrieve import evaluate, index, search
from gare.cli.sweep import compare, sweep
from gare.cli.train import make_clip, train

COMMANDS: tuple[click.Command, ...] = (
    config,
    corpus,
    manifest,
    prepare,
    make_clip,
    train,
    evaluate,
    index,
    search,
    sweep,
    compare,
    demo,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="gare")
def cli() -> None:
    """Find the video a sentence describes: from videos to shards, a trained model, search and sweeps.

    \b
    The path of the data, a command each:
      gare corpus    write a small captioned corpus of real video files
      gare manifest  make a manifest from captions and videos
      gare prepare   decode videos into Arrow shards
      gare train     train a model on shards
      gare evaluate  measure retrieval on a split
      gare index     index the videos of a split for search
      gare search    find the videos a sentence describes
      gare sweep     try many settings; gare compare ranks them
    gare demo runs all of it at a small size.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cli.main(args=list(arguments) if arguments is not None else None, prog_name="gare")
