"""A decoding process for tests: decodes as the real one, but does what the name of a file asks for.

``segfault-1.mp4`` crashes, and so on; ``once-segfault.mp4`` does it the first time only, ``clip-segfault.mp4`` when the
clip that starts at second 2 comes, ``ahead-segfault.mp4`` with the first of the clips that it is one of.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from pipelines.decode.isolated import decode_worker
from pipelines.decode.isolated.decode_worker import serve_many
from pipelines.decode.isolated.messages import DecodeRequest


def say(data: bytes) -> None:
    """Write to the connection behind the protocol's back, and stay."""
    os.write(int(sys.argv[1]), data)
    time.sleep(600)


def chatter() -> None:
    for stream in (0, 1, 2):
        try:
            os.write(stream, b"a library speaks its mind\n" * 100)
        except OSError:
            assert stream == 0
    sys.stdout.write("and Python too\n")
    sys.stdout.flush()


ACTS = {
    "segfault": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "bus": lambda _: os.kill(os.getpid(), signal.SIGBUS),
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(3),
    "spin": lambda _: any(iter(int, 1)),
    "sleep": lambda _: time.sleep(600),
    "hold": lambda _: ctypes.PyDLL(None).sleep(600),  # with the interpreter's lock
    "allocate": lambda _: [bytearray(2**24) for _ in range(2**10)],
    "allocate_in_c": lambda _: [ctypes.memset(libc_malloc(2**24), 1, 2**24) for _ in range(2**10)],
    "say": lambda path: say(path.read_bytes()),
    "hang_up": lambda _: (os.close(int(sys.argv[1])), time.sleep(600)),
    "raise": lambda _: 1 // 0,
    "chatter": lambda _: chatter(),
}


def libc_malloc(size: int) -> int:
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    found = malloc(ctypes.c_size_t(size))
    if not found:
        raise MemoryError
    return found


def decode(request: DecodeRequest):
    path = Path(request.path)
    act, *rest = path.stem.split("-")
    if act == "once":
        act, seen = rest[0], path.with_suffix(".seen")
        if seen.exists():
            act = ""
        seen.touch()
    if act == "ahead":
        act = rest[0] if any(start_s == 2 for start_s, _ in request.clips) else ""
    if act == "clip":
        for given, (start_s, _) in zip(decode_worker.decode(request), request.clips, strict=True):
            if start_s == 2:
                with decode_worker.cpu_within(request.limits.cpu_seconds):
                    ACTS[rest[0]](path)
            yield given
        return
    if act in ACTS:
        with decode_worker.cpu_within(request.limits.cpu_seconds):
            ACTS[act](path)
    yield from decode_worker.decode(request)


if __name__ == "__main__":
    serve_many(DecodeRequest, decode)
