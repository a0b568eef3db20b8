"""Commands run, and killed, as a user's; what processes there are below one, and what they took: from /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 180


def gare(*arguments: object) -> list[str]:
    """The command line of the gare command in this Python."""
    return [sys.executable, "-c", "from gare.cli import main; main()", *map(str, arguments)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a process group, unheard."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_until(process: subprocess.Popen[bytes], reached: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Wait until ``reached()`` or the process's end; whether it is still at work then."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and not reached() and time.monotonic() < deadline:
        time.sleep(0.01)
    return process.poll() is None


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process's whole group. Its decoders are in no group of its own, and have to end by themselves."""
    decoders = decoders_below(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert all(ends(decoder) for decoder in decoders)


def below(pid: int) -> list[int]:
    """Ids of the descendants of a process."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            parent = _stat(int(folder.name))[1]
            children.setdefault(parent, []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        more = children.get(todo.pop(), [])
        found += more
        todo += more
    return found


def command(pid: int) -> str:
    """Command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def decoders_below(pid: int) -> list[int]:
    """Ids of the decoding processes that descend from a process."""
    return [found for found in below(pid) if "decode_worker" in command(found)]


def training_workers_below(pid: int) -> list[int]:
    """Ids of the Ray Train workers that descend from a process."""
    return [found for found in below(pid) if "RayTrainWorker" in command(found)]


def peak_bytes(pid: int) -> int:
    """Most memory a process had in use; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def ends(pid: int, seconds: float = 60.0) -> bool:
    """Whether a process ends in time; a zombie has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _stat(pid)[0] in ("", "Z"):
            return True
        time.sleep(0.02)
    return False


def _stat(pid: int) -> tuple[str, int]:
    """State and parent of a process; empty and 0 when it is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return "", 0
    return state, int(parent)
