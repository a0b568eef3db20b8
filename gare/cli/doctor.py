"""``gare doctor``: find problems of this machine, or of every node of a cluster, and say how to fix them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import config_options, gare_command
from gare.common.console import print_table
from gare.common.errors import RunError
from gare.common.storage import is_address

if TYPE_CHECKING:
    from gare.doctor.every import Wanted
    from gare.doctor.ray_nodes import Found

HERE = "here"


@gare_command("doctor", short_help="Check this machine or a cluster, and say how to fix problems.")
@click.option(
    "--cluster", is_flag=True, help="Also check every node of the cluster (RAY_ADDRESS, or the one on this machine)."
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="YAML file whose runtime.* places to check."
)
@click.option("--shards", help="Folder or address that must be readable (runtime.shards).")
@click.option("--output", help="Folder or address that must be writable (runtime.output).")
@click.option("--fix", is_flag=True, help="Set the mode of the token file to 600 if others can read it.")
@config_options
def doctor(
    *,
    cluster: bool,
    config_file: Path | None,
    shards: str | None,
    output: str | None,
    fix: bool,
    overrides: tuple[str, ...],
) -> dict[str, Any]:
    """Check what could stop or slow a run: packages, GPUs, codecs, disk, memory, storage, tracker, token.

    It writes only small files in the output folder, and removes them. With --cluster it checks every node, its clock
    too, and that the output folder is the same on all of them. It exits with code 4 if a check fails; a mere risk is a
    warning.

    \b
    Examples:
      gare doctor
      gare doctor --config configs/msrvtt.yaml --shards shards --output runs
      gare doctor --cluster --output /mnt/gare/runs --json
    """
    from gare.doctor.every import look
    from gare.doctor.finding import fail

    found: Found = []
    try:
        wanted = _wanted(config_file, overrides, shards, output, cluster=cluster, fix=fix)
    except Exception as error:  # noqa: BLE001 - an import error is a finding too
        found.append((HERE, fail("settings", str(error), "correct the file or the option")))
        wanted = _defaults(shards, output, cluster=cluster, fix=fix)
    found += [(HERE, finding) for finding in look(wanted)]
    if cluster:
        from gare.doctor.ray_nodes import look_everywhere

        found += look_everywhere(wanted, HERE)
    return _report(found)


def _defaults(shards: str | None, output: str | None, *, cluster: bool, fix: bool) -> Wanted:
    from gare.doctor.every import Wanted
    from gare.launch.ray_session import OBJECT_STORE_BYTES

    tracker = os.environ.get("MLFLOW_TRACKING_URI")
    return Wanted(OBJECT_STORE_BYTES, _absolute(shards), _absolute(output), tracker or None, cluster=cluster, fix=fix)


def _absolute(place: str | None, root: str | None = None) -> str | None:
    """Return the place in a form that other machines can use."""
    if place is None or is_address(place):
        return place
    return str(Path(root or ".").resolve() / place)


def _wanted(
    config_file: Path | None,
    overrides: Sequence[str],
    shards: str | None,
    output: str | None,
    *,
    cluster: bool,
    fix: bool,
) -> Wanted:
    wanted = _defaults(shards, output, cluster=cluster, fix=fix)
    if config_file is None and not overrides:
        return wanted
    from gare.config.tree import load_config

    runtime = load_config(config_file, tuple(overrides)).runtime
    from gare.data.cache import Cache

    return replace(
        wanted,
        cache=Cache.of(runtime),
        shards=wanted.shards or _absolute(runtime.shards, runtime.root),
        output=wanted.output or _absolute(runtime.output, runtime.root),
        tracker=runtime.tracking_uri or wanted.tracker,
    )


def _report(found: Found) -> dict[str, Any]:
    """Print the table. Raises RunError with the whole result if a check fails."""
    several = len({node for node, _ in found}) > 1
    columns = ["node"] * several + ["check", "state", "what is there", "how to fix it"]
    print_table(
        "Doctor",
        columns,
        [[node] * several + [each.check, each.state, each.says, each.fix] for node, each in found],
    )
    counts = {state: sum(each.state == state for _, each in found) for state in ("ok", "warn", "fail")}
    result = {"counts": counts, "findings": [{"node": node} | asdict(each) for node, each in found]}
    if counts["fail"]:
        bad = ", ".join(dict.fromkeys(each.check for _, each in found if each.state == "fail"))
        raise RunError(
            f"{counts['fail']} of {len(found)} checks fail: {bad}; the table says how to fix it.", result=result
        )
    return result
