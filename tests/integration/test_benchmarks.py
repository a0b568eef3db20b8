"""The benchmarks run, and name the peers that are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEERS = (
    "decord, threads auto",
    "decord, 1 thread",
    "torchcodec, exact",
    "torchcodec, approximate",
)


@pytest.mark.slow
def test_the_decoding_benchmark_compares_or_names_every_peer():
    command = [sys.executable, "benchmarks/decoding.py", "--short", "1", "--minutes", "0", "--turns", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    for name in ("gare", "PyAV, sequential"):
        assert any(line.startswith(name) and "100.0%" in line for line in lines), done.stdout
    for name in PEERS:
        compared = any(line.startswith(name) and " x (" in line for line in lines)
        named = any(line.startswith(f"NOT COMPARED: {name}: ") for line in lines)
        assert compared != named, done.stdout
