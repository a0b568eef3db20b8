"""Training as a person sees it, on a terminal and in a log."""

from __future__ import annotations

import json
import time

import pytest

from gare.config import Config
from gare.config.tree import build
from gare.launch.progress import Clock, data_wait, duration, follow, samples_per_second, training_view

STEP = {
    "train/loss": 2.0,
    "speed/samples_per_second": 400.0,
    "speed/step_seconds": 0.01,
    "speed/data_wait": 0.02,
    "memory/rss_gib": 1.5,
}


@pytest.fixture
def config():
    return build({"train": {"epochs": 2}, "runtime": {"name": "toy"}})


def row(step, **values):
    return {"step": step, "total": 20, "seconds": 6.0 * step, **values}


def shown(config: Config, capsys, *rows):
    with training_view(config.run_name(), config.train.epochs, quiet=False) as show:
        for entry in rows:
            show(entry)
    return capsys.readouterr().err


def test_a_log_has_the_last_step_an_epochs_line_and_a_closing_one(config, capsys):
    metrics = {"dev/t2v/R@1": 34.25, "dev/t2v/R@5": 70.0, "dev/v2t/R@1": 30.0}
    err = shown(
        config,
        capsys,
        row(10, **STEP | {"train/loss": 3.0}),
        row(10, epoch=1, **metrics),
        row(20, **STEP),
        row(20, epoch=2, **metrics),
    )
    assert "epoch 1: dev t2v/R@1 34.2  t2v/R@5 70.0  v2t/R@1 30.0  loss 3.000  (60 s)" in err
    assert "toy: 20/20 epoch 2/2  loss 2.000  R@1 34.2  400/s  wait 2%  ETA 0:00" in err
    assert "20 steps, 2:00 in all: 400 samples/s, 2.0% of a step's time waiting for data, at most 1.50 GiB" in err
    assert "\x1b" not in err


def test_a_warning_is_seen_and_rows_of_diagnostics_are_not(config, capsys):
    err = shown(config, capsys, row(5, warning="the increments [are] gone"), row(5, **{"diagnostics/x": 1.0}))
    assert err == "warning: the increments [are] gone\n"


def test_a_run_without_a_dev_split_says_so(config, capsys):
    assert "epoch 1: no dev split  (60 s)" in shown(config, capsys, row(10, epoch=1))


def test_quiet_is_quiet(config, capsys):
    with training_view(config.run_name(), config.train.epochs, quiet=True) as show:
        show(row(20, **STEP))
    assert capsys.readouterr().err == ""


def test_time_left_counts_from_the_first_step_seen(monkeypatch):
    now = iter([100.0, 110.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = Clock()
    assert clock.left(500, 1000) is None
    assert clock.left(600, 1000) == pytest.approx(40.0)


def test_rates_and_waits_are_weighted_by_time():
    slow = STEP | {"speed/samples_per_second": 100.0, "speed/step_seconds": 0.04, "speed/data_wait": 0.5}
    assert samples_per_second([STEP, slow]) == pytest.approx(160.0)
    assert data_wait([STEP, slow]) == pytest.approx((0.02 * 0.01 + 0.5 * 0.04) / 0.05)


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.7, "1:00"), (187, "3:07"), (3720, "1:02:00")])
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


def test_rows_that_another_process_writes_are_followed(tmp_path):
    path, seen = tmp_path / "history.jsonl", []
    path.write_text(json.dumps(row(1)) + "\n")
    with follow(path, seen.append), path.open("a") as stream:
        stream.write(json.dumps(row(2)) + "\n" + json.dumps(row(3))[:10])
    assert seen == [row(2)]
