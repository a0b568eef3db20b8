"""Machines joined by a network that can be cut: namespaces of Linux, which end with their processes.

A machine sees this one's files, but for /tmp and /dev/shm, which are its own, and one folder that all of them share.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = "10.77.0"
NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL")
TOOLS = ("ip", "mount", "nsenter", "unshare")
ROOT = Path(__file__).parents[2]
BOOT = Path(__file__).with_name("boot.py")


def why_not() -> str:
    """Why machines cannot be made here; empty when they can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"making network namespaces needs the commands {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "ip", "link", "add", "br0", "type", "bridge"], capture_output=True, text=True
    )
    return "" if tried.returncode == 0 else f"network namespaces cannot be made here: {tried.stderr.strip()}"


@dataclass
class Machine:
    """A machine that is up. ``boot``: its first process, whose death is the machine's."""

    name: str
    address: str
    boot: subprocess.Popen[str]
    pid: int
    cable: str
    hub: int
    environment: Mapping[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on the machine; what it says goes into ``log``, or nowhere."""
        with ExitStack() as stack:
            to = subprocess.DEVNULL if log is None else stack.enter_context(log.open("ab"))
            process = subprocess.Popen(
                ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--ipc", "--pid", "--wdns=/tmp",
                 *command],
                stdin=subprocess.DEVNULL, stdout=to, stderr=to, env={**self.environment, **(environment or {})},
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, seconds: float = 300
    ) -> int:
        """Run a command on the machine to its end; its exit code."""
        return self.start(command, environment, log).wait(timeout=seconds)

    @property
    def up(self) -> bool:
        """Whether it is on."""
        return self.boot.poll() is None

    def kill(self) -> None:
        """Turn it off at once: its processes are killed, those that talk to them hear it from the network."""
        self.boot.kill()  # and with it the first process of the namespaces, and with that all the others
        self.boot.wait(timeout=60)
        for process in self.started:
            process.wait(timeout=60)

    def cut(self) -> None:
        """Pull it from the network. Nobody is told: what is sent is lost."""
        self._hub("ip", "link", "set", self.cable, "nomaster")

    def heal(self) -> None:
        """Put it back on the network."""
        self._hub("ip", "link", "set", self.cable, "master", "br0")

    @contextmanager
    def slowed(self, working_s: float, standing_s: float) -> Iterator[None]:
        """Let its processes work for a while and stand still for a while, in turn, while the block runs."""
        over = threading.Event()

        def slow() -> None:
            while not over.wait(working_s):
                stopped = [pid for pid in self.processes() if pid != self.pid]
                _signal(stopped, signal.SIGSTOP)
                over.wait(standing_s)
                _signal(stopped, signal.SIGCONT)

        thread = threading.Thread(target=slow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def processes(self) -> list[int]:
        """Ids, as this machine counts, of the processes that are at work there."""
        return [pid for pid in _all_processes() if _space(pid) == self._space and pid != os.getpid()]

    def running(self, words: str) -> list[int]:
        """Those of its processes that have these words in their command line."""
        return [pid for pid in self.processes() if words in _command(pid)]

    def __post_init__(self) -> None:
        self._space = _space(self.pid)

    def _hub(self, *command: str) -> None:
        _in_network(self.hub, *command)


class Machines:
    """A network and its machines. ``shared``: the folder that all of them see."""

    def __init__(self, shared: Path, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        code = (Path(sys.prefix), Path(sys.base_prefix), ROOT)
        self._seen = [str(shared), *(str(folder) for folder in code if folder.is_relative_to("/tmp"))]
        self._stack = ExitStack()
        self._count = 0
        self.all: list[Machine] = []

    def __enter__(self) -> Machines:
        hub = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo up; exec sleep infinity"], stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(_end, hub)
        _wait_for_up(hub)
        self._hub_pid = hub.pid
        for command in ("link add br0 type bridge", "link set br0 up"):
            _in_network(self._hub_pid, "ip", *command.split())
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.all:
            machine.kill()
        self._stack.close()

    def add(self) -> Machine:
        """One more machine on the network."""
        self._count += 1
        name, address, cable = f"machine{self._count}", f"{NETWORK}.{self._count}", f"cable{self._count}"
        boot = subprocess.Popen(
            ["unshare", *NAMESPACES, "--propagation=private", sys.executable, str(BOOT), name, *self._seen],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._stack.callback(_end, boot)
        _wait_for_up(boot)
        pid = _child(boot.pid)
        _in_network(
            self._hub_pid, "ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid)
        )
        for command in (f"link set {cable} master br0", f"link set {cable} up"):
            _in_network(self._hub_pid, "ip", *command.split())
        for command in (
            "link set lo up",
            f"address add {address}/24 dev eth0",
            "link set eth0 up",
            "route add default dev eth0",  # Ray finds its own address by asking where an outer one would be sent from
        ):
            _in_network(pid, "ip", *command.split())
        machine = Machine(name, address, boot, pid, cable, self._hub_pid, self._environment)
        self.all.append(machine)
        return machine


def leftovers() -> list[str]:
    """Namespaces with a bridge or cable of ours that are still there, and processes in them."""
    found = []
    own = _space(os.getpid(), "net")
    for pid in _all_processes():
        if _space(pid, "net") not in (own, ""):
            done = subprocess.run(
                ["nsenter", f"--target={pid}", "--net", "ip", "-o", "address"], capture_output=True, text=True
            )
            if f"{NETWORK}." in done.stdout or "br0" in done.stdout:
                found.append(f"{pid}: {_command(pid)}")
    return found


def _in_network(pid: int, *command: str) -> None:
    done = subprocess.run(["nsenter", f"--target={pid}", "--net", *command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _wait_for_up(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n", "a namespace did not come up; its error is above"


def _child(pid: int) -> int:
    """The process that unshare has forked into the new namespaces."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(timeout=60)
    assert process.stdout is not None
    process.stdout.close()


def _all_processes() -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            yield int(folder.name)


def _space(pid: int, kind: str = "pid") -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    return ""


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_for(reached: object, seconds: float, what: str) -> None:
    """Wait until ``reached()``; a failure that says ``what`` did not come, after so many seconds."""
    assert callable(reached)
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
        time.sleep(0.05)
