"""The check of a GPU runs without Ray, PyAV and MLflow, keeps what it found and names what failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKED = """
import runpy, sys
for name in ("ray", "av", "mlflow"):
    sys.modules[name] = None  # importing it raises ImportError
runpy.run_module("gpu_check", run_name="__main__", alter_sys=True)
"""


def check(out, *arguments):
    """Run the check as on a machine without those packages; its exit code, lines and file."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "--device", "cpu", "--out", out, *arguments],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.is_file(), done.stderr
    return done.returncode, done.stdout.splitlines(), json.loads(out.read_text())["stages"]


def test_its_stages_run_without_ray_pyav_and_mlflow_and_are_kept(tmp_path):
    code, lines, stages = check(tmp_path / "found.json", "--only", "machine", "devices", "draws", "waits")
    assert code == 0, lines
    assert stages.keys() == {"machine", "devices", "draws", "waits"}
    assert [line.split(" (")[0] for line in lines[:4]] == ["machine: ok", "devices: ok", "draws: ok", "waits: skipped"]
    assert stages["devices"]["passed"]
    assert stages["devices"]["fp32"] <= 1e-5
    assert stages["waits"]["skipped"] == "only a GPU is waited for"


@pytest.mark.slow
def test_all_that_can_run_on_a_cpu_passes(tmp_path):
    code, lines, stages = check(tmp_path / "found.json")
    assert code == 0, lines
    assert len(stages) == 13
    assert stages["step"]["samples_per_second"] > 0


def test_a_failed_check_or_stage_is_named_and_takes_no_other_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu_check.report import Report, Skipped, within

    def broken():
        raise ValueError("out of order")

    def absent():
        raise Skipped("not here")

    report = Report(tmp_path / "found.json", limit_s=60.0, device="none")
    report.run("near", lambda: within({"apart": 0.5}, {"apart": 1.0}))
    report.run("far", lambda: within({"apart": 2.0}, {"apart": 1.0}))
    report.run("no number", lambda: within({"apart": float("nan")}, {"apart": 1.0}))
    report.run("broken", broken)
    report.run("absent", absent)
    assert report.failed == ["far", "no number", "broken"]
    found = json.loads((tmp_path / "found.json").read_text())["stages"]
    assert found["broken"]["error"] == "ValueError: out of order"
    assert found["absent"]["skipped"] == "not here"
    late = Report(tmp_path / "late.json", limit_s=-1.0)
    late.run("near", dict)
    assert "were over" in json.loads((tmp_path / "late.json").read_text())["stages"]["near"]["skipped"]
    assert len(capsys.readouterr().out.splitlines()) == 6
