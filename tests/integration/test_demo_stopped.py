"""The demo, stopped by a signal while it prepares and while it trains: a clean end, and the same command goes on."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.processes import below, ends, gare, wait_until

VIDEOS = 600


def begun(out: Path, log: Path) -> subprocess.Popen[bytes]:
    """The demo as a process group of its own, as in a terminal."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            gare("demo", "--out", out, "--videos", VIDEOS),
            stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True,
        )  # fmt: skip


def stopped(demo: subprocess.Popen[bytes], number: signal.Signals, log: Path) -> None:
    """Send a signal; the demo ends with its code and one sentence, and none of its processes is left."""
    there = below(demo.pid)
    demo.send_signal(number)
    assert demo.wait(120) == 128 + number, log.read_text()[-3000:]
    said = [line for line in log.read_text().splitlines() if "error:" in line or "Traceback" in line]
    how = "Interrupted" if number == signal.SIGINT else f"Ended by {number.name}"
    assert said == [f"error: {how}; the same command continues where it can."]
    assert there
    assert all(ends(pid) for pid in there)


def epochs(out: Path) -> int:
    record = out / "runs/demo/run.json"
    return int(json.loads(record.read_text())["epoch"]) if record.is_file() else 0


def shards(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "shards/ledger").glob("*.parquet")}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_demo_that_is_stopped_ends_cleanly_and_goes_on(tmp_path):
    out, log = tmp_path / "demo", tmp_path / "log"
    demo = begun(out, log)
    try:
        assert wait_until(demo, lambda: bool(shards(out)), 400), log.read_text()[-3000:]
        stopped(demo, signal.SIGTERM, log)
        finished = shards(out)

        demo = begun(out, log)
        assert wait_until(demo, lambda: epochs(out) > 0, 400), log.read_text()[-3000:]
        stopped(demo, signal.SIGINT, log)
        trained = epochs(out)
        assert finished.items() <= shards(out).items()
        prepared = shards(out)

        demo = begun(out, log)
        assert wait_until(demo, lambda: epochs(out) > trained, 400), log.read_text()[-3000:]
        stopped(demo, signal.SIGTERM, log)
        assert shards(out) == prepared
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
