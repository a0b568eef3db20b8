"""Progress, where there is no terminal: what was done before is no part of the rate, nor of the time that remains."""

from __future__ import annotations

import pytest

from gare.common import console


@pytest.fixture
def clock(monkeypatch):
    moments = {"now": 0.0}
    monkeypatch.setattr(console.time, "monotonic", lambda: moments["now"])
    return moments


def test_rate_and_remaining_time_count_what_this_run_does(clock, capsys):
    with console.meter("videos", 1000, start=900) as meter:
        clock["now"] = 10.0
        meter.update(920, "1 failed")
    assert capsys.readouterr().err == "videos: 920/1000 (2.0/s, 0:00:40 left) 1 failed\n"


def test_the_end_has_no_time_left(clock, capsys):
    with console.meter("videos", 10) as meter:
        clock["now"] = 5.0
        meter.update(10)
    assert capsys.readouterr().err == "videos: 10/10 (2.0/s)\n"


def test_work_that_has_not_moved_yet_tells_no_remaining_time(clock, capsys):
    with console.meter("videos", 10, start=5) as meter:
        clock["now"] = 6.0
        meter.update(5)
    assert capsys.readouterr().err == "videos: 5/10 (0.0/s)\n"
