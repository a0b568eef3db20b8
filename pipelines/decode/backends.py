"""Find the decoder that ``prepare.decoder`` names, and check that it works on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from gare.config.decoders import DECODERS, DEFAULT
from pipelines.decode.planned import Planned

LOADS: Final = "import sys; from pipelines.decode.backends import backend; backend(sys.argv[1]).load()"
LOAD_S = 300.0


def backend(name: str) -> type[Planned]:
    """Return the class of a row of ``DECODERS``. It imports its dependencies only when it is loaded."""
    module, _, attribute = DECODERS[name].source.partition(":")
    found: type[Planned] = getattr(import_module(module), attribute)
    return found


def missing(name: str) -> str | None:
    """Return a sentence saying why a decoder cannot be used here and what to do, or None. Loads it in a process."""
    extra = DECODERS[name].extra
    if extra is None:
        return None
    install = f"python -m pip install 'gare-ray[{extra}]'"
    if find_spec(extra) is None:
        return f"prepare.decoder is {name}, which is not installed: {install}, or set prepare.decoder={DEFAULT}."
    with backend(name).environment() as variables:
        command = [sys.executable, "-P", "-c", LOADS, name]
        try:
            done = subprocess.run(
                command,
                env={**child_environment(), **variables},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LOAD_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
        else:
            if not done.returncode:
                return None
            why = (done.stderr.strip().splitlines() or ["it was ended"])[-1]
    return (
        f"prepare.decoder is {name}, which cannot be loaded ({why[:200].rstrip('.')}): {install} and FFmpeg 4 to 8, or "
        f"set prepare.decoder={DEFAULT}."
    )


def child_environment() -> dict[str, str]:
    """Return variables for a child process: it can import what this process can, and computes on one thread."""
    paths = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - needs a string
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)}
