"""``gare doctor``: find problems of this machine, or of every node of a cluster, and say how to fix them."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import PLACE, config_options, gare_command
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
@click.option("--config", "config_file", type=PLACE, help="YAML file whose runtime.* places to check.")
@click.option("--shards", help="Folder or address that must be readable (runtime.shards).")
@click.option("--output", help="Folder or address that must be writable (runtime.output).")
@click.option("--fix", is_flag=True, help="Set the mode of the token file to 600 if others can read it.")
@config_options
def doctor(
    config_file: Path | None, shards: str | None, output: str | None, overrides: tuple[str, ...], **flags: Any
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
    from gare.doctor.every import Wanted, look
    from gare.doctor.finding import fail
    from gare.launch.ray_session import OBJECT_STORE_BYTES

    found: Found = []
    tracker = os.environ.get("MLFLOW_TRACKING_URI") or None
    wanted = Wanted(OBJECT_STORE_BYTES, _absolute(shards), _absolute(output), tracker, **flags)
    try:
        if config_file is not None or overrides:
            wanted = _with_settings(wanted, config_file, overrides)
    except Exception as error:  # noqa: BLE001 - an import error is a finding too
        found.append((HERE, fail("settings", str(error), "correct the file or the option")))
    found += [(HERE, finding) for finding in look(wanted)]
    if wanted.cluster:
        from gare.doctor.ray_nodes import look_everywhere

        found += look_everywhere(wanted, HERE)
    return _report(found)


def _absolute(place: str | None, root: str | None = None) -> str | None:
    """Return the place in a form that other machines can use."""
    if place is None or is_address(place):
        return place
    return str(Path(root or ".").resolve() / place)


def _with_settings(wanted: Wanted, config_file: Path | None, overrides: tuple[str, ...]) -> Wanted:
    """Fill in the places of the settings that no option names."""
    from gare.config.tree import load_config
    from gare.data.cache import Cache

    runtime = load_config(config_file, overrides).runtime
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
