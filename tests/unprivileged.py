"""Command lines run as somebody whom the rights of files and folders hold, also where the tests run as root."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOMEBODY = 65534
RIGHTS_OF_ROOT = (0, 1, 2, 3)
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER."""
PR_CAPBSET_DROP = 24

PROGRAM = """
import contextlib, io, json, os, sys
from gare.cli import main
answers = os.fdopen(os.dup(1), "w")
for name, command in json.load(sys.stdin).items():
    code, out, said = None, open("out", "w+"), io.StringIO()
    os.dup2(out.fileno(), 1)
    with contextlib.redirect_stderr(said):
        try:
            main(command)
        except SystemExit as end:
            code = end.code
    sys.stdout.flush()
    out.seek(0)
    print(json.dumps([name, code, out.read(), said.getvalue()]), file=answers, flush=True)
"""


def run_unprivileged(commands: Mapping[str, Sequence[object]], cwd: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Run gare's command lines in one process without root's rights to files.

    Returns exit code, standard output and lines of standard error of each.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps({name: [str(word) for word in words] for name, words in commands.items()}),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "1000", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=_drop_rights if os.geteuid() == 0 else None,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(commands), done.stderr[-3000:]
    return {name: (code, out, said.strip().splitlines()) for name, code, out, said in rows}


def give_away(*paths: Path) -> None:
    """Make somebody else the owner; a skip where only root may and we are not."""
    if os.geteuid() != 0:
        pytest.skip("only root can make somebody else the owner of a file")
    for path in paths:
        for one in (path, *path.rglob("*")):
            os.chown(one, SOMEBODY, SOMEBODY)


def _drop_rights() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    for right in RIGHTS_OF_ROOT:
        if library.prctl(PR_CAPBSET_DROP, right, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
