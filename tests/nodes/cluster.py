"""A Ray cluster of machines: a head that takes no work, and nodes that do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.nodes.machines import Machine, Machines

ROOT = Path(__file__).parents[2]
PORT = 6379
RAY_SETTINGS = {
    # The head asks a node each second, three seconds for an answer, and takes it for lost after the fifth missed one.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # nodes do without a head for so long, and end
    "RAY_raylet_start_wait_time_s": "120",  # other tests may keep this machine busy
}
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--disable-usage-stats",
       "--object-store-memory=100000000"]  # fmt: skip


@dataclass
class RayMachines:
    """Machines with Ray on them. ``head``: where commands are run; ``nodes``: where work is placed."""

    machines: Machines
    head: Machine
    logs: Path
    nodes: list[Machine] = field(default_factory=list)

    def add_nodes(self, count: int) -> list[Machine]:
        """More nodes, of one CPU each."""
        added = [self.machines.add() for _ in range(count)]
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(lambda machine: self._ray(machine, f"--address={self.address}", "--num-cpus=1"), added))
        self.nodes += added
        return added

    @property
    def address(self) -> str:
        """What RAY_ADDRESS is on these machines."""
        return f"{self.head.address}:{PORT}"

    def start_head(self) -> None:
        """Start Ray on the head."""
        self._ray(self.head, "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")

    def new_head(self) -> None:
        """Another machine in the place of the head, with a new cluster of which it is the only node."""
        self.head, self.nodes = self.machines.add(), []
        self.start_head()

    def log(self, name: str) -> Path:
        """Where a command's output goes."""
        return self.logs / f"{name}.log"

    def gare(self, *arguments: object) -> list[str]:
        """The command line of a gare command."""
        return [sys.executable, "-m", "gare", *map(str, arguments)]

    def _ray(self, machine: Machine, *options: str) -> None:
        log = self.log(f"ray-{machine.name}")
        try:
            code = machine.run([*RAY, *options], log, seconds=120)
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            machine.run(["sh", "-c", "cd /tmp/ray/session_latest/logs && tail -n 30 raylet.err *agent.err"], log)
            raise AssertionError(log.read_text())


@contextmanager
def ray_machines(shared: Path, count: int) -> Iterator[RayMachines]:
    """A head and ``count`` nodes, which are gone afterwards."""
    hidden = ("RAY_ADDRESS", "GARE_CACHE", "MLFLOW_TRACKING_URI", "PYTEST_CURRENT_TEST", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": "/tmp", "RAY_AUTH_MODE": "disabled", **RAY_SETTINGS}
    logs = shared / "logs"
    logs.mkdir(parents=True)
    with Machines(shared, environment) as machines:
        head = machines.add()
        cluster = RayMachines(machines, head, logs)
        cluster.start_head()
        cluster.add_nodes(count)
        yield cluster
