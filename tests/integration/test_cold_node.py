"""A run on nodes of which one has to copy the shards first, for longer than torch would wait for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gare.config.tree import to_yaml
from gare.data.cache import entries

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ranks_wait_for_the_node_that_copies_and_the_warm_one_copies_nothing(toy_run, tmp_path):
    config = toy_run("runtime.workers=2", "runtime.max_failures=0", "runtime.cache_mounted=true", "train.epochs=1")
    settings, result = tmp_path / "config.yaml", tmp_path / "summary.json"
    settings.write_text(to_yaml(config))
    command = [sys.executable, "-m", "tests.cold_cluster", *map(str, (settings, tmp_path / "caches", result))]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(result.read_text())["epochs"] == 1
    warm, cold = (entries(tmp_path / "caches" / name / "shards") for name in ("warm", "cold"))
    assert [copy.state for copy in (*warm, *cold)] == ["unused", "unused"]
    assert warm[0].there == cold[0].there
