"""What processes there are below one, and what they took: from /proc."""

from __future__ import annotations

import time
from pathlib import Path


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
