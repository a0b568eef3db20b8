"""Measure in a separate process, so that memory, caches and threads of one part do not affect the next."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path


class OwnProcessError(Exception):
    """An error in the process; the message is the last line it wrote."""


def own_process(script: str, *arguments: object) -> str:
    """Run ``python script arguments`` and return what it prints; OwnProcessError if it fails."""
    return own_processes(1, script, *arguments)[0]


def own_processes(count: int, script: str, *arguments: object) -> list[str]:
    """Run ``count`` such processes at once and return what each prints; OwnProcessError if one fails."""
    command = [sys.executable, script, *(str(argument) for argument in arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(command, text=True, **pipes) for _ in range(count)]  # type: ignore[call-overload]
    printed = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, printed, strict=True):
        if process.returncode:
            lines = errors.strip().splitlines() or [f"ended with code {process.returncode}"]
            raise OwnProcessError(lines[-1])
    return [output for output, _ in printed]


class PeakMemory:
    """Peak resident memory of this process since this was made, in MB of 2^20 bytes (Linux).

    ``ru_maxrss`` does not work here: a process inherits the peak of the one that started it.
    """

    def __init__(self) -> None:
        self._before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak

    def whole(self) -> float:
        """Return the process's memory at its peak."""
        return _resident("VmHWM")

    def added(self) -> float:
        """Return the peak less the memory at the start."""
        return max(0.0, self.whole() - self._before)


class OwnMemory:
    """Peak of this process's private memory while the block runs, in MB of 2^20 bytes (Linux); ten samples a second.

    Pages of mapped files, which the system can take back, do not count.
    """

    def __enter__(self) -> OwnMemory:
        self.before = self.peak = _resident("RssAnon")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def added(self) -> float:
        """Return the peak less the memory at the start."""
        return self.peak - self.before

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, _resident("RssAnon"))


def _resident(entry: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1024
