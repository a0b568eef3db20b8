"""The first process of a machine: makes its mounts, says that it is up, and collects what its processes leave.

Run with the machine's name and the folders of /tmp that it sees all the same, in new namespaces of processes, mounts
and names.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Become the machine."""
    name, seen = sys.argv[1], [Path(folder) for folder in sys.argv[2:]]
    socket.sethostname(name)
    handles = [os.open(folder, os.O_RDONLY) for folder in seen]  # what is mounted over /tmp hides them
    mount("-t", "proc", "proc", "/proc")
    for private in ("/tmp", "/dev/shm"):
        mount("-t", "tmpfs", "-o", "size=1g,mode=1777", "tmpfs", private)
    for folder, handle in zip(seen, handles, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        mount("--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{handle}", str(folder))
        os.close(handle)
    files(name)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        signal.pause()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def files(name: str) -> None:
    """What a machine knows of names: itself, and no server to ask for others."""
    own = Path("/tmp/etc")
    own.mkdir()
    for file, text in {
        "hosts": f"127.0.0.1 localhost\n127.0.1.1 {name}\n",  # as Debian's installer writes it
        "hostname": f"{name}\n",
        "resolv.conf": "",
    }.items():
        (own / file).write_text(text)
        mount("--bind", str(own / file), f"/etc/{file}")


def mount(*arguments: str) -> None:
    """Mount something, in this machine alone."""
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main()
