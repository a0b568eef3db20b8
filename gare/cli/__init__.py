"""The command line ``gare``. Commands import their dependencies when they run."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import click

from gare import __version__
from gare.cli.cache import cache
from gare.cli.command import call
from gare.cli.compare import compare
from gare.cli.demo import demo
from gare.cli.doctor import doctor
from gare.cli.evaluate import diagnose, evaluate, zero_shot
from gare.cli.import_checkpoint import import_checkpoint
from gare.cli.inspect import inspect
from gare.cli.jobs import jobs, logs, stop, submit
from gare.cli.manifest import manifest
from gare.cli.prepare import corpus, prepare
from gare.cli.search import index, register, search
from gare.cli.serve import serve
from gare.cli.shards import shards
from gare.cli.sweep import sweep
from gare.cli.train import config, export_clip, make_clip, train
from gare.common.console import note

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Data": (corpus, manifest, prepare, inspect, shards, cache),
    "Training": (config, make_clip, train, sweep, import_checkpoint, export_clip),
    "Evaluation": (evaluate, zero_shot, compare, diagnose),
    "Search": (index, search, serve, register),
    "Machines and jobs": (demo, doctor, submit, jobs, logs, stop),
}
COMMANDS: tuple[click.Command, ...] = tuple(command for section in SECTIONS.values() for command in section)


RENAMED = {"compare-runs": "compare"}


class InSections(click.Group):
    """A group that lists its commands in sections and accepts their former names."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its present or former name."""
        if cmd_name in RENAMED:
            note(f"gare {cmd_name} is now called gare {RENAMED[cmd_name]}.")
        return super().get_command(ctx, RENAMED.get(cmd_name, cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a table of commands for each section."""
        del ctx
        widest = max(len(str(command.name)) for command in COMMANDS)
        for title, commands in SECTIONS.items():
            limit = formatter.width - 6 - widest
            rows = [(f"{command.name}".ljust(widest), command.get_short_help_str(limit)) for command in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=InSections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="gare")
def cli() -> None:
    """Find the video that a sentence describes: from videos to shards, a trained model, search and sweeps.

    \b
    From nothing to an answer, at a small size:
      gare corpus --out corpus --videos 600
      gare manifest csv corpus/captions.csv --columns uri=file,captions=caption --out manifest.parquet
      gare make-clip manifest.parquet --out clip
      gare prepare manifest.parquet --out shards --config configs/demo.yaml
      gare train configs/demo.yaml --shards shards --set runtime.name=first
      gare evaluate runs/first --shards shards
      gare index runs/first --shards shards --out index
      gare search index "a small red circle moving left"
      gare serve index
    gare demo runs all of it and a sweep. COMMAND --help explains a command; gare submit -- COMMAND runs it elsewhere.

    \b
    Exit codes: 0 done; 2 a setting or the command line is wrong, 3 a file or argument cannot be used, 4 work stopped,
    130 interrupted, 1 anything else. Errors, notes and progress go to standard error; GARE_QUIET=1 silences notes and
    progress.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a caption or a path the terminal cannot show
    sys.exit(call(cli, sys.argv[1:] if arguments is None else arguments, "gare"))
