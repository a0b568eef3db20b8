"""``gare manifest``: from captions and videos to a manifest."""

from __future__ import annotations

import click

from gare.cli.manifest.benchmarks import activitynet, didemo, lsmdc, msrvtt, msvd
from gare.cli.manifest.sources import csv_command, folder_command, jsonl_command, parquet_command


@click.group("manifest", short_help="Make a manifest: one row per video.", context_settings={"max_content_width": 120})
def manifest() -> None:
    """Make a manifest: one row per video, with its file, split and captions."""


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
