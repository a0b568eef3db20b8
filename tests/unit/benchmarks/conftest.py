from __future__ import annotations

import json

import pytest

from gare.cli import main


@pytest.fixture
def command(capfd):
    """Run the command of a benchmark: its exit code, the JSON object on standard output, and what people see."""

    def run(benchmark, annotations, videos, out, *more):
        capfd.readouterr()
        line = ["manifest", benchmark, "--annotations", annotations, "--videos", videos, "--out", out, *more, "--json"]
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in line])
        printed, said = capfd.readouterr()
        assert "Traceback" not in said
        assert "Unexpected" not in said
        return ended.value.code, json.loads(printed), said

    return run
