"""``gare diagnose`` on a small trained run."""

from __future__ import annotations

import json

import pytest

from gare.cli import main
from gare.launch.local import fit_local


def test_it_measures_and_draws_a_checkpoint(toy_run, tmp_path, capfd):
    summary = fit_local(toy_run("train.epochs=1"), quiet=True)
    shards = toy_run().runtime.shards
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(summary.directory), "--shards", shards, "--out", str(tmp_path / "d.png"), "--json"])
    assert ended.value.code == 0
    result = json.loads(capfd.readouterr().out)
    assert result["pairs"] == 5
    assert result["measures"]["increment_norm/positive"] > 0
    assert (tmp_path / "d.png").stat().st_size > 10_000
