"""Every kind of file the project reads, damaged: a right result or one sentence, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.fuzz import SECONDS

QUICK = 6
FULL = 200


def outcomes(tmp_path, count: int) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--count", str(count), "--json", str(tmp_path / "outcomes.json")],
        capture_output=True,
        text=True,
        timeout=max(280, SECONDS * count),
    )
    assert (tmp_path / "outcomes.json").is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((tmp_path / "outcomes.json").read_text())


def check(found: dict, count: int) -> None:
    wrong = [f"{seed}: {said}" for came in found.values() for seed, said in came["wrong"].items()]
    assert not wrong, "\n".join(wrong)
    assert len(found) > 40
    for name, came in found.items():
        assert came["mutants"] > 0.7 * count, name
        assert came["same"] + came["other"] + came["sentence"] == came["mutants"], name
    assert sum(came["sentence"] for came in found.values()) > len(found) * count / 2


def test_every_damaged_file_is_read_rightly_or_refused_with_a_sentence(tmp_path):
    check(outcomes(tmp_path, QUICK), QUICK)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_very_many_damaged_files_are_read_rightly_or_refused_with_a_sentence(tmp_path):
    check(outcomes(tmp_path, FULL), FULL)
