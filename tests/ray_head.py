"""A Ray head of a test's own, as ``ray start`` makes it: with a token, reachable on localhost, and gone afterwards."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


@dataclass(frozen=True)
class Head:
    """Where its job server is, the token it wants, and the environment of commands that may talk to it."""

    address: str
    token: str
    environment: dict[str, str]
    gcs: str
    own: dict[str, str]
    scratch: str

    @contextmanager
    def node(self, blind: Path) -> Iterator[None]:
        """Another node, which sees an empty folder where the others see ``blind``. Needs to be root."""
        start = [*RAY, "start", f"--address={self.gcs}", "--num-cpus=1", "--object-store-memory=100000000",
                 "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--metrics-export-port=0",
                 "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]  # fmt: skip
        script = f"mount -t tmpfs none {blind} && exec {shlex.join(start)}"
        environment = self.own | {"GARE_TEST_NODE": f"{self.scratch}/node/"}
        try:
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", script], env=environment, capture_output=True, text=True,
                cwd=self.scratch, timeout=180,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            yield
        finally:
            kill_all(f"{self.scratch}/node")


@contextmanager
def ray_head(cpus: int = 4) -> Iterator[Head]:
    """Start a head whose processes are all killed in the end: its GCS outlives SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="gh-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        token = secrets.token_hex(32)
        file = Path(scratch) / "token"
        file.write_text(token)
        port, dashboard, client = free_ports(3)
        hidden = {"RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "PYTEST_CURRENT_TEST"}
        base = {name: value for name, value in os.environ.items() if name not in hidden}
        base |= {"RAY_AUTH_TOKEN_PATH": str(file), "PYTHONPATH": str(ROOT)}
        command = [
            *RAY, "start", "--head", f"--temp-dir={scratch}/r", f"--port={port}", f"--dashboard-port={dashboard}",
            "--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}", "--dashboard-agent-listen-port=0",
            "--dashboard-agent-grpc-port=0", "--metrics-export-port=0", "--min-worker-port=0", "--max-worker-port=0",
            f"--num-cpus={cpus}", "--object-store-memory=150000000", "--disable-usage-stats",
        ]  # fmt: skip
        theirs = base | {"RAY_AUTH_MODE": "token", "PYTHONPATH": ""}  # what a job runs has to travel with it
        theirs["RAY_raylet_start_wait_time_s"] = "120"  # other tests may keep the machine busy
        try:
            started = subprocess.run(command, env=theirs, capture_output=True, text=True, cwd=scratch, timeout=180)
            assert started.returncode == 0, started.stderr
            yield Head(f"http://127.0.0.1:{dashboard}", token, base, f"127.0.0.1:{port}", theirs, scratch)
        finally:
            kill_all(scratch)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def kill_all(scratch: str) -> None:
    """SIGKILL every process that has this folder in its command line or environment, and is not this one."""
    for _ in range(3):  # a process may have started another meanwhile
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit() and int(folder.name) != os.getpid():
                    about = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                    if f"{scratch}/".encode() in about:
                        os.kill(int(folder.name), signal.SIGKILL)
