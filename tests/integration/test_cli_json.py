"""Commands that start Ray: with ``--json`` one JSON object on standard output, and ports on localhost alone."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import threading
from contextlib import suppress

import psutil
import pytest

from gare.config.tree import to_yaml
from tests.videos import make_video

pytestmark = pytest.mark.ray
PROGRAM = "from gare.cli import main; main()"


def one_object(*arguments):
    """The only line that a command wrote to standard output; all that listens meanwhile does so on localhost."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        heard: set[tuple[str, str]] = set()
        watch = threading.Thread(target=listen, args=(process, heard))
        watch.start()
        out, err = process.communicate()
        watch.join()
    assert process.returncode == 0, err
    assert out.endswith("}\n")
    assert out.count("\n") == 1
    assert "Traceback" not in err
    assert {"gcs_server", "raylet"} <= {name for name, _ in heard}
    assert [pair for pair in heard if not on_localhost(pair[1])] == []
    return json.loads(out), err


def listen(process, heard):
    """Note the name of each process that listens, and at which address, until the command ends."""
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):
            for child in [parent, *parent.children(recursive=True)]:
                with suppress(psutil.Error):
                    listening = [c for c in child.net_connections("inet") if c.status == psutil.CONN_LISTEN]
                    heard.update((child.name(), connection.laddr.ip) for connection in listening)
        threading.Event().wait(1)


def on_localhost(address):
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def test_train_on_ray_prints_one_json_object(toy_run, tmp_path):
    (tmp_path / "toy.yaml").write_text(to_yaml(toy_run("train.epochs=1", "runtime.tracking=true")))
    values, err = one_object("train", tmp_path / "toy.yaml")
    assert values["name"] == "toy"
    assert values["epochs"] == 1
    assert "epoch 1: dev" in err


@pytest.mark.slow
def test_sweep_prints_one_json_object(toy_run, tmp_path):
    space = "sweep.space={train.seed: {grid: [1, 2]}}"
    (tmp_path / "toy.yaml").write_text(
        to_yaml(toy_run(space, "train.epochs=1", "runtime.workers=2", "runtime.tracking=true"))
    )
    values, err = one_object("sweep", tmp_path / "toy.yaml")
    assert {trial["status"] for trial in values["trials"]} == {"done"}
    assert "[2/2]" in err


@pytest.mark.slow
def test_prepare_prints_one_json_object(tmp_path):
    video = make_video(tmp_path / "a.mp4", frames=8, fps=4)
    (tmp_path / "m.csv").write_text(f"video_id,uri,split,captions\na,{video},train,a bar moves\n")
    values, _ = one_object("prepare", tmp_path / "m.csv", "--ray", "--out", tmp_path / "shards")
    assert values["videos"] == 1
