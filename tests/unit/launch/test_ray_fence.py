"""A process of a node that is cut off from the head ends by itself, whatever it waits for."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from gare.launch import ray_ranks

CODE = """
import sys, threading, time
from gare.launch.ray_ranks import ending_without
with ending_without(("127.0.0.1", int(sys.argv[1])), 0.5, every_s=0.1):
    print("at work", flush=True)
    threading.Event().wait({seconds})
print("done")
"""


@pytest.fixture
def head():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def start(head, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", CODE.format(seconds=seconds), str(head.getsockname()[1])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_process_ends_once_the_head_has_not_answered_for_too_long(head):
    process = start(head, 300)
    assert process.stdout.readline() == "at work\n"
    head.close()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (ray_ranks.LOST_EXIT, "")
    assert "was not reached for 0.5 s" in err


def test_a_process_whose_head_answers_goes_on(head):
    out, _ = start(head, 2).communicate(timeout=60)
    assert out == "at work\ndone\n"


@pytest.mark.parametrize(("value", "seconds"), [(None, 60.0), ("600", 600.0), ("soon", 60.0)])
def test_the_time_is_that_after_which_rays_nodes_give_up(monkeypatch, value, seconds):
    monkeypatch.delenv(ray_ranks.RECONNECT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(ray_ranks.RECONNECT_VARIABLE, value)
    assert ray_ranks.head_seconds() == seconds
