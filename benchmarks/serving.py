"""Measure the search server with many clients at once, next to the text tower alone.

    python benchmarks/serving.py INDEX [--clients 32 --seconds 60 --threads 2]

The server runs in a process of its own; each client is a thread that asks, waits for the answer and asks again, with
sentences of its own, and takes a picture of the best video. Errors are answers other than 200, of which 503 (full) are
counted apart. The text tower alone encodes the same sentences one by one in one process, which is the least that any
search costs; the ratio is of the server's median with one client to it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import httpx2
import numpy as np

from gare.retrieval.opening import open_index

WORDS = ("a red circle", "somebody plays", "a dog", "two people", "moving left", "in a kitchen", "slowly", "at night")


def sentence(number: int) -> str:
    """Return a sentence of its own for each number."""
    return f"{WORDS[number % 8]} {WORDS[number // 8 % 8]} {number}"


def tower_alone(index: Path, seconds: float) -> list[float]:
    """Return the milliseconds of each encoding of a sentence."""
    opened, found, numbers = open_index(index), [], count()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        opened.encode(sentence(next(numbers)))
        found.append(1000 * (time.perf_counter() - start))
    return found[len(found) // 10 :]


def asking(address: str, clients: int, seconds: float) -> tuple[list[float], dict[int, int]]:
    """Ask by many clients at once; return the milliseconds of each answer and the number of each status."""
    found: list[float] = []
    codes: dict[int, int] = {}
    lock, until = threading.Lock(), time.perf_counter() + seconds

    def client(number: int) -> None:
        with httpx2.Client(base_url=address, timeout=120) as session:
            for turn in count():
                if time.perf_counter() > until:
                    return
                start = time.perf_counter()
                answer = session.get("/api/search", params={"q": sentence(number + clients * turn)})
                took = 1000 * (time.perf_counter() - start)
                pictures = answer.json()["results"][0]["pictures"] if answer.status_code == 200 else []
                picture = session.get(pictures[0]["url"]).status_code if pictures else 200
                with lock:
                    found.append(took)
                    for code in (answer.status_code, *([picture] if picture != 200 else [])):
                        codes[code] = codes.get(code, 0) + 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, codes


def served(index: Path, threads: int, measure: Callable[[str], None]) -> None:
    """Run a server, and measure at its address."""
    command = [sys.executable, "-m", "gare", "serve", str(index), "--port", "0", "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = re.search(r"http://\S+", process.stdout.readline())
            assert printed is not None
            measure(printed.group().rstrip("/"))
        finally:
            process.terminate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    alone = tower_alone(given.index, given.seconds / 6)
    print(f"text tower alone      p50 {statistics.median(alone):8.1f} ms  p99 {np.percentile(alone, 99):8.1f} ms")

    def measure(address: str) -> None:
        asking(address, 1, 2)
        for clients, seconds in ((1, given.seconds / 6), (given.clients, given.seconds)):
            times, codes = asking(address, clients, seconds)
            rate, wrong = len(times) / seconds, {code: n for code, n in codes.items() if code != 200}
            line = f"{clients:3} client{'s' * (clients > 1):1}           p50 {statistics.median(times):8.1f} ms  "
            line += f"p99 {np.percentile(times, 99):8.1f} ms  {rate:7.1f} answers/s, other than 200: {wrong or 'none'}"
            print(f"{line}  {statistics.median(times) / statistics.median(alone):.2f} x the tower")

    served(given.index, given.threads, measure)


if __name__ == "__main__":
    main()
