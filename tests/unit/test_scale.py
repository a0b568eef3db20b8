"""The arithmetic of benchmarks/scale, the tables that docs/scale.md shows, and the simulation at its smallest."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import scale_costs  # noqa: E402
from scale.costs import (  # noqa: E402
    DENSE,
    FACTORISED,
    Assumed,
    Measured,
    checkpoint_bytes,
    files,
    pairs_flops,
    preparing,
    scoring_hours,
    step,
)
from scale.spans import Span, longest_pause, steady, whole  # noqa: E402

UNIT = Measured(decode_s=0.1, driver_s=0.01, source_bytes=1e6, raw_bytes=2e6, jpeg_bytes=1e5)
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^```\n\$ python benchmarks/scale_costs\.py(.*?)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("words", "shown"), TABLES, ids=[words.strip() for words, _ in TABLES])
def test_the_page_shows_what_the_script_prints(words, shown, capsys):
    scale_costs.main(shlex.split(words))
    printed = capsys.readouterr().out
    assert [line.rstrip() for line in shown.splitlines()] == [line.rstrip() for line in printed.splitlines()]


def test_the_page_has_a_table_of_each_kind():
    assert {words.split()[0] for words, _ in TABLES} == set(scale_costs.SHOW)


@pytest.mark.parametrize(
    ("cores", "unit", "storage", "rate", "bottleneck"),
    [
        (100, 64, "raw", 500, "store, writing"),  # 1000 videos/s of decoding, and 1 GB/s takes 500 of 2 MB
        (10, 64, "raw", 100, "decoding"),
        (100, 64, "jpeg", 1000, "decoding"),
        (1000, 1, "jpeg", 100, "driver"),  # 10 ms a unit of one video
        (1000, 640, "jpeg", 2000, "store, reading"),
    ],
)
def test_the_least_of_what_prepare_can_do_is_its_rate(cores, unit, storage, rate, bottleneck):
    made = preparing(3.6e6, cores, unit, storage, UNIT, Assumed(store_write=1e9, store_read=2e9, core_hour=0.5))
    assert made.rate == pytest.approx(rate)
    assert made.bottleneck == bottleneck
    assert made.hours == pytest.approx(1000 / rate)
    assert made.price == pytest.approx(1000 / rate * cores * 0.5)
    assert made.efficiency == pytest.approx(rate / (cores * 10))
    units = min(-(-3_600_000 // unit), max(1024, 64 * cores))
    assert made.driver_bytes == pytest.approx(units * UNIT.driver_unit_bytes)


def test_files_of_a_corpus():
    measured = Measured(raw_bytes=2**20, requests=3, readers=10, reopen_s=1e-3, dataset_s=1.0, entry_bytes=100)
    made = files(1000, 64, 16 * 2**20, "raw", measured, Assumed(answer_s=0.5, tb_month=1e6, thousand_reads=1.0))
    assert made.units == 16
    assert made.shards == 64  # 16 videos fill one
    assert made.stored_tb == pytest.approx(1000 * 2**20 / 1e12)
    assert made.month == pytest.approx(1000 * 2**20 / 1e6)
    assert made.dataset_mb == pytest.approx(0.0064)
    assert made.look_s == pytest.approx(17)
    assert made.answers_s == pytest.approx(16 * 3 * 0.5 / 10)
    assert made.requests_price == pytest.approx(2 * 48 / 1000)


@pytest.mark.parametrize(
    ("gpus", "increments", "counted"),
    [(8, DENSE, 41.47), (16, DENSE, 43.21), (64, DENSE, 71.01), (8, FACTORISED, 41.07), (64, FACTORISED, 67.81)],
)
def test_operations_of_a_step_are_those_that_torch_counts(gpus, increments, counted):
    """benchmarks/scale_units.py prints ``counted``, in 10^12 of a rank with 128 videos."""
    measured = Measured()
    total = 128 * measured.encoder_flops + pairs_flops(gpus, 128, increments, measured)
    assert total / 1e12 == pytest.approx(counted, rel=0.01)


def test_parts_of_a_step():
    measured = Measured(
        encoder_flops=1e12, dense_pair_flops=0, direction_flops=0, trained=10**9, embedded=1000, raw_bytes=1e6
    )
    assumed = Assumed(peak=100e12, utilisation=0.5, nic=10e9, node_gpus=8, disk=1e9)
    one, many = (step(gpus, 100, "raw", DENSE, measured, assumed) for gpus in (1, 16))
    assert one.compute_s == pytest.approx(2)
    assert (one.reduce_s, one.gather_s) == (0, 0)
    assert one.rate == pytest.approx(50)
    assert many.reduce_s == pytest.approx(0.4)  # 8 GB, of which half crosses from one of two nodes, at 10 GB/s
    assert many.gather_s == pytest.approx(2 * 1600 * 1000 * 4 / 2 / 10e9)
    assert many.read == pytest.approx(8 * 100 * 1e6)
    assert one.readers == pytest.approx(50 * measured.raw_read_s)
    assert (one.loses_most, many.loses_most) == ("nothing", "gradients")
    slow = step(16, 100, "raw", DENSE, measured, Assumed(peak=100e12, utilisation=0.5, disk=1e8))
    assert slow.loses_most == "frames"
    assert slow.seconds == pytest.approx(8)


def test_a_measured_step_takes_the_place_of_operations():
    measured, assumed = Measured(), Assumed(peak=1.0)
    assert step(1, 128, "raw", DENSE, measured, assumed, step_s=0.5).compute_s == pytest.approx(0.5)
    assert step(64, 128, "raw", DENSE, measured, assumed, step_s=0.5).compute_s == pytest.approx(
        0.5 * 71.01 / 40.61, rel=0.01
    )


def test_a_checkpoint_and_a_gallery():
    assert checkpoint_bytes(Measured(parameters=10, trained=5)) == 80
    measured = Measured(dense_pair_flops=3e6)
    assert scoring_hours(3600, 1000, DENSE, measured, Assumed(peak=1e12, utilisation=1.0)) == pytest.approx(1e-3)


def test_an_unknown_unit_cost_is_named():
    with pytest.raises(SystemExit, match="'core_hours'"):
        scale_costs.main(["prepare", "--set", "core_hours=1"])


# Spans


def evenly(slots, units, seconds, gap=0.0, start=0.0):
    """Every slot does so many units with a gap after each; slot s starts s / 100 later."""
    return [
        Span(start + slot / 100 + n * (seconds + gap), start + slot / 100 + n * (seconds + gap) + seconds, f"n{slot}")
        for slot in range(slots)
        for n in range(units)
    ]


def test_a_rate_leaves_start_and_tail_out():
    found = steady(evenly(2, 4, 10.0, start=5.0), 2)
    assert found.begin == pytest.approx(5.01)
    assert found.dry == pytest.approx(35.01)
    assert found.end == pytest.approx(45.01)
    assert found.rate == pytest.approx(0.2)
    assert found.busy == pytest.approx(1)
    assert found.gap == pytest.approx(0, abs=1e-9)


def test_gaps_cost_what_they_last():
    found = steady(evenly(4, 20, 9.0, gap=1.0), 4)
    assert found.rate == pytest.approx(0.4, rel=0.02)
    assert found.busy == pytest.approx(0.9, abs=0.01)
    assert found.gap == pytest.approx(1.0, rel=0.05)


def test_slots_that_were_never_all_at_work_are_said_so():
    with pytest.raises(ValueError, match="At most 2 of 3 slots"):
        steady(evenly(2, 4, 1.0), 3)
    with pytest.raises(ValueError, match="too few units"):
        steady(evenly(2, 1, 1.0), 2)


def test_the_whole_job_counts_start_and_tail():
    spans = [Span(10, 20, "a"), Span(10, 15, "b")]
    assert whole(spans, 2, began=0) == pytest.approx(15 / 40)
    assert longest_pause([*spans, Span(18, 19, "b")]) == 8


# The simulation


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_simulation_runs_over_several_executions_of_the_job():
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--part", "prepare"]
    sizes = ["--nodes", "2", "--slots", "2", "--units", "5", "--unit-videos", "20", "--portion", "7"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command, *sizes], env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[3].split()
    assert row[:3] == ["2", "4", "20"]
    assert row[4] == "100.0%"
    assert 0 < float(row[5].rstrip("%")) <= 100
