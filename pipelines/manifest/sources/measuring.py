"""How long files are, by the clock that decoding goes by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Final

from gare.common.console import meter
from gare.config.prepare import PrepareConfig
from pipelines.decode import DecodeError
from pipelines.decode.isolated.decoder import Decoder

MOST_PROCESSES: Final = 8

_MEASURED: Final = PrepareConfig(max_frames=1, policy="uniform", short_side=8, crop=8, resize="swscale")
"""The least that can be decoded; the duration comes with it, by the clock that clips are cut by."""


def durations(files: Sequence[str]) -> Iterator[float | str]:
    """Yield how long each file is in seconds, as it is decoded, or why that cannot be told.

    Files are opened in other processes, by the limits and with the protection of decoding.
    """
    count = min(len(files), MOST_PROCESSES, os.cpu_count() or 1)
    with ExitStack() as stack:
        idle: SimpleQueue[Decoder] = SimpleQueue()
        for _ in range(count):
            idle.put(stack.enter_context(Decoder()))
        pool = stack.enter_context(ThreadPoolExecutor(count))
        bar = stack.enter_context(meter("Measuring files", len(files)))

        def measure(file: str) -> float | str:
            decoder = idle.get()
            try:
                duration = decoder.decode(file, recipe=_MEASURED).video.duration_s
            except DecodeError as error:
                return f"{error.kind}: {error.message}"
            finally:
                idle.put(decoder)
            return duration or "its frames have no times"

        futures = [pool.submit(measure, file) for file in files]
        try:
            for done, future in enumerate(futures, 1):
                result = future.result()
                bar.update(done)
                yield result
        finally:
            for future in futures:
                future.cancel()
