"""The driver killed with SIGKILL in the middle: the same command finishes the work, with the same result."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare.common.files import file_digest
from gare.config.tree import to_yaml
from gare.schema import MANIFEST
from pipelines.manifest.rows import write_manifest
from tests.processes import SECONDS, below, ends, gare, kill, run, start, wait_until
from tests.processes import command as command_line
from tests.videos import make_video

pytestmark = pytest.mark.ray
VIDEOS = 60


def kill_when(command, reached):
    """Start a command and SIGKILL its whole process group once ``reached()``; True if it was still at work."""
    process = start(command)
    alive = wait_until(process, reached)
    kill(process)
    return alive


def units_done(out):
    return len(list((out / "ledger").glob("unit-*.parquet"))) if (out / "ledger").is_dir() else 0


def contents(out):
    """Digests of what the job made, and its ledger without attempts and times."""
    made = {path.name: file_digest(path) for path in [out / "dataset.json", *sorted((out / "shards").iterdir())]}
    for path in sorted((out / "ledger").glob("*.parquet")):
        made[path.name] = pq.read_table(path).drop_columns(["attempts", "decode_s"]).to_pylist()
    return made


def workers_below(pid):
    """Ray's processes that are at work on a unit."""
    return [found for found in below(pid) if "ray::" in command_line(found) and "_task" in command_line(found)]


def lose_worker_when(command, reached):
    """Start a command, SIGKILL one of its working processes once ``reached()``, and wait for the end it comes to."""
    process = start(command)
    killed = []
    while process.poll() is None and not killed:
        for worker in workers_below(process.pid)[:1] if reached() else []:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
        time.sleep(0.01)
    assert process.wait(timeout=SECONDS) == 0
    return killed


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A manifest of many small units, the command that prepares it, and what an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("kill")
    rows = []
    for number in range(VIDEOS):
        path = make_video(folder / f"{number}.mp4", frames=150, size=(320, 240))
        rows.append({"video_id": f"v{number}", "uri": str(path), "split": "train", "captions": ["a bar"]})
    write_manifest(pa.Table.from_pylist(rows, schema=MANIFEST), folder / "m.parquet")

    def command(out):
        sizes = ("prepare.crop=32", "prepare.short_side=32", "prepare.unit_videos=2")
        return gare("prepare", folder / "m.parquet", "--ray", "--out", out, *(x for s in sizes for x in ("--set", s)))

    run(command(folder / "whole"))
    return command, contents(folder / "whole")


def test_driver_of_prepare_killed_in_the_middle(job, tmp_path):
    command, whole = job
    out = tmp_path / "out"
    assert kill_when(command(out), lambda: units_done(out) >= 5)
    assert units_done(out) < VIDEOS // 2
    assert not (out / "dataset.json").exists()
    again = run(command(out))
    assert contents(out) == whole
    assert f"{VIDEOS} videos" not in again.stderr


@pytest.mark.slow
def test_worker_of_prepare_killed_in_the_middle(job, tmp_path):
    command, whole = job
    assert lose_worker_when(command(tmp_path / "out"), lambda: units_done(tmp_path / "out") >= 3)
    assert contents(tmp_path / "out") == whole


@pytest.mark.slow
def test_driver_of_prepare_killed_twice_before_a_worker_is_lost(job, tmp_path):
    command, whole = job
    out = tmp_path / "out"
    for units in (2, 6):
        kill_when(command(out), lambda units=units: units_done(out) >= units)
    lose_worker_when(command(out), lambda: units_done(out) >= 8)
    assert contents(out) == whole


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_prepare_killed_at_many_random_moments(job, tmp_path):
    """Ten times the driver with all its processes, ten times one worker."""
    command, whole = job
    draw = random.Random(0)
    lost = 0
    for attempt in range(20):
        out = tmp_path / str(attempt)
        at = draw.randrange(VIDEOS // 2 - 3)
        if attempt % 2:
            lost += len(lose_worker_when(command(out), lambda out=out, at=at: units_done(out) >= at))
        else:
            lost += kill_when(command(out), lambda out=out, at=at: units_done(out) >= at)
            run(command(out))
        assert contents(out) == whole, f"attempt {attempt}, killed after {at} units"
    assert lost == 20


def sweep_record(folder):
    path = folder / "sweep.json"
    return json.loads(path.read_text()) if path.is_file() else {"trials": []}


@pytest.mark.slow
def test_driver_of_sweep_killed_in_the_middle(toy_run, tmp_path):
    space = "sweep.space={objective.trust_region.weight: {grid: [0.0, 0.01, 0.02]}}"
    config = toy_run(space, "sweep.max_concurrent=1", "train.epochs=1", "runtime.name=sweep")
    path = tmp_path / "sweep.yaml"
    path.write_text(to_yaml(config))
    folder = Path(config.runtime.output) / "sweep"

    def done():
        return sum(trial["status"] == "done" for trial in sweep_record(folder)["trials"])

    assert kill_when(gare("sweep", path), lambda: done() >= 1)
    finished = next(trial for trial in sweep_record(folder)["trials"] if trial["status"] == "done")
    run(gare("sweep", path))
    trials = sweep_record(folder)["trials"]
    assert [trial["status"] for trial in trials] == ["done"] * 3
    assert next(trial for trial in trials if trial["name"] == finished["name"]) == finished


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number"), [("prepare", signal.SIGTERM), ("train", signal.SIGTERM), ("sweep", signal.SIGINT)]
)
def test_a_signal_with_ray_ends_the_command_and_all_its_processes(tmp_path, toy_shards, toy_clip, stage, number):
    from tests import toy

    space = 'sweep.space={"train.lr_new":{"grid":[1e-3,1e-4]}}'
    config = toy.toy_config(toy_clip, toy_shards, tmp_path / "runs", "train.epochs=60", space)
    (tmp_path / "toy.yaml").write_text(to_yaml(config))
    make_video(tmp_path / "v.mp4", frames=600, gop=10, size=(320, 240))
    rows = [{"video_id": f"{n}", "uri": str(tmp_path / "v.mp4"), "split": "s", "captions": []} for n in range(60)]
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), tmp_path / "m.parquet")
    out, checkpoints = tmp_path / "out", "trial-000/checkpoints" if stage == "sweep" else "checkpoints"
    process = start(
        gare("prepare", tmp_path / "m.parquet", "--ray", "--out", out, "--set", "prepare.unit_videos=2")
        if stage == "prepare"
        else gare(stage, tmp_path / "toy.yaml")
    )
    reached = {"prepare": lambda: units_done(out) > 0}.get(
        stage, lambda: any((tmp_path / "runs/toy" / checkpoints).glob("epoch-0002"))
    )
    assert wait_until(process, reached)
    children = below(process.pid)
    assert children
    process.send_signal(number)
    assert process.wait(timeout=SECONDS) == 128 + number
    assert [command_line(child) for child in children if not ends(child)] == []
