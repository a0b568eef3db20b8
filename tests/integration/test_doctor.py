"""``gare doctor --cluster`` on two real nodes with a token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.ray
def test_every_node_is_looked_at_and_another_token_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.doctored_cluster", "--output", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    right, wrong = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))

    assert right["code"] == 0, right
    nodes = {finding["node"] for finding in right["result"]["findings"]} - {"here"}
    assert len(nodes) == 2
    for node in nodes:
        found = {each["check"]: each for each in right["result"]["findings"] if each["node"] == node}
        assert {"python", "packages", "codecs", "output", "token", "clock"} <= set(found)
        assert "the same place" in found["output"]["says"]
        assert found["clock"]["state"] == "ok"
    assert not (tmp_path / "runs").exists()

    assert wrong["code"] == 4
    failed = {each["check"]: each for each in wrong["result"]["findings"] if each["state"] == "fail"}
    assert set(failed) == {"cluster"}
    assert "token" in failed["cluster"]["fix"]
    for secret in ("ab" * 16, "cd" * 16):
        assert secret not in done.stdout
