"""Process work units without Ray: one after the other in this process, with their videos in a pool of decoders."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from queue import Full, Queue

from gare.config import PrepareConfig
from pipelines.dataset.layout import Output
from pipelines.dataset.shard_rows import Row
from pipelines.decode.isolated.decoder import Decoder
from pipelines.prepare.attempts import Attempt, Placed, Tries, UnitCounts, by_source, in_order, of_one_source
from pipelines.prepare.process_unit import process_unit
from pipelines.prepare.unit_tasks import UnitTask

LOOK_S = 0.1  # how often a thread that waits for room checks if it should stop


def run_here(output: Output, todo: Sequence[UnitTask], workers: int | None) -> Generator[UnitCounts]:
    """Process units in order and yield their counts as they finish. The files are those that Ray's tasks write.

    ``workers``: decoder processes at once, one per available processor if None. All of them have ended when the
    iterator is exhausted or closed.
    """
    count = workers or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        decoders = [stack.enter_context(Decoder()) for _ in range(count)]
        for task in todo:
            with _ended(decoders) as tries:
                counts = process_unit(output, task.unit, again=task.again, repair=bool(task.damage), tries=tries)
            yield counts


@contextmanager
def _ended(decoders: Sequence[Decoder]) -> Iterator[Tries]:
    """Yield a function that tries rows in parallel; its threads end with the block, at once if it fails."""
    begun: list[Generator[Attempt]] = []

    def tries(rows: Mapping[int, Row], recipe: PrepareConfig) -> Iterator[Attempt]:
        begun.append(in_parallel(rows, recipe, decoders))
        return begun[-1]

    try:
        yield tries
    except BaseException:
        for made in begun:
            made.close()
        raise
    for made in begun:
        deque(made, maxlen=0)


def in_parallel(rows: Mapping[int, Row], recipe: PrepareConfig, decoders: Sequence[Decoder]) -> Generator[Attempt]:
    """Try rows as ``attempts.attempts`` does, with a thread per decoder, each on one source at a time."""
    sources = by_source(rows)
    with _Threads(sources, recipe, decoders[: len(sources)]) as tried:
        yield from in_order(tried.results(), rows)


class _Threads:
    """Threads that try sources. Leaving the block before all are tried ends the decoders for good."""

    def __init__(self, sources: list[list[Placed]], recipe: PrepareConfig, decoders: Sequence[Decoder]) -> None:
        self._left, self._recipe, self._decoders = deque(sources), recipe, decoders
        self._made: Queue[tuple[int, Attempt] | BaseException | None] = Queue(maxsize=1)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(one,), daemon=True) for one in decoders]

    def __enter__(self) -> _Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if any(thread.is_alive() for thread in self._threads) and exception[0] is not None:
            for decoder in self._decoders:
                decoder.stop()
        for thread in self._threads:
            thread.join()

    def results(self) -> Iterator[tuple[int, Attempt]]:
        """Yield the result of each row, in any order; raise the error that ended a thread."""
        at_work = len(self._threads)
        while at_work:
            made = self._made.get()
            if made is None:
                at_work -= 1
            elif isinstance(made, BaseException):
                raise made
            else:
                yield made

    def _run(self, decoder: Decoder) -> None:
        try:
            while not self._stop.is_set() and (source := self._next()):
                for made in of_one_source(source, self._recipe, decoder):
                    self._give(made)
            self._give(None)
        except BaseException as error:  # noqa: BLE001 - results() raises it again
            self._give(error)

    def _next(self) -> list[Placed] | None:
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def _give(self, made: tuple[int, Attempt] | BaseException | None) -> None:
        while not self._stop.is_set():
            with suppress(Full):
                self._made.put(made, timeout=LOOK_S)
                return
