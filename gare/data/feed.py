"""Prepare the batches of an epoch on their device, ahead of the loop that takes them."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from gare.config import Config
from gare.data.augment import augmented
from gare.data.batches import Batch, make_batch
from gare.data.samples import Sample
from gare.data.shards import Split
from gare.model.tokenizer import Tokenizer


class Feed(Iterator[Batch]):
    """This rank's batches of one epoch, in order, from batch ``start`` on, on ``device``.

    A thread makes up to ``runtime.read_ahead`` of them in advance; with 0 each is made on request. The batches are the
    same either way: those of ``make_batch``, augmented on the device if the settings say so.
    ``own``: this rank's rows of a global batch. ``waited_s``: how long the last next() took, in seconds.
    next() raises an error of the thread unchanged, after the batches before it. The thread ends with the epoch, with
    ``close``, on any error in next(), and when the feed is garbage-collected.
    """

    def __init__(
        self,
        split: Split,
        batches: Sequence[Sequence[Sample]],
        tokenizer: Tokenizer,
        config: Config,
        image_size: int,
        epoch: int,
        own: slice,
        device: torch.device,
        start: int = 0,
    ) -> None:
        self.waited_s = 0.0
        self._left = max(0, len(batches) - start)
        own_rows = [samples[own] for samples in batches[start:]]
        maker = _Maker(split, tokenizer, config, image_size, epoch, device)
        self._ahead: _Ahead | None = None
        if config.runtime.read_ahead:
            self._ahead = _Ahead(maker, own_rows, config.runtime.read_ahead)
            self._stop = weakref.finalize(self, self._ahead.stop)
        self._now = iter(own_rows), maker

    def __len__(self) -> int:
        """Return the number of remaining batches."""
        return self._left

    def __next__(self) -> Batch:
        if not self._left:
            self.close()
            raise StopIteration
        asked = time.perf_counter()
        try:
            rows, maker = self._now
            made = maker.make(next(rows)) if self._ahead is None else self._ahead.take()
            batch = made.ready()
        except BaseException:
            self.close()
            raise
        self._left -= 1
        self.waited_s = time.perf_counter() - asked
        return batch

    def close(self) -> None:
        """Stop reading ahead and end the iteration; waits for the batch that is being made."""
        self._left = 0
        if self._ahead is not None:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Made:
    """A batch, and the work on a CUDA stream that completes it."""

    batch: Batch
    event: torch.cuda.Event | None = None

    def ready(self) -> Batch:
        """Return the batch, for kernels of the calling thread's stream."""
        if self.event is not None:
            stream = torch.cuda.current_stream(self.batch.frames.device)
            stream.wait_event(self.event)
            for tensor in _tensors(self.batch).values():
                tensor.record_stream(stream)
        return self.batch


class _Maker:
    """A maker of batches on a device; on CUDA from page-locked memory, on its own stream, parallel to the model's."""

    def __init__(
        self, split: Split, tokenizer: Tokenizer, config: Config, image_size: int, epoch: int, device: torch.device
    ) -> None:
        self._split, self._tokenizer, self._config = split, tokenizer, config
        self._image_size, self._epoch, self._device = image_size, epoch, device
        self.threads = config.runtime.read_threads
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def make(self, samples: Sequence[Sample], workers: Executor | None = None) -> _Made:
        """Make the batch of these samples; on CUDA it may still be in progress."""
        batch = make_batch(
            self._split,
            samples,
            self._tokenizer,
            self._config,
            self._image_size,
            epoch=self._epoch,
            workers=workers,
            pinned=self._stream is not None,
        )
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            batch = _on(batch, self._device)
            if self._config.data.augment == "rand":
                batch = augmented(batch, samples, self._config.train.seed, self._epoch)
            return _Made(batch, self._stream.record_event() if self._stream is not None else None)


class _Ahead:
    """A thread that makes batches while there is room for them, without a reference to the feed, which can go."""

    def __init__(self, maker: _Maker, rows: Sequence[Sequence[Sample]], room: int) -> None:
        self._made: SimpleQueue[_Made | BaseException] = SimpleQueue()
        self._room, self._stopped = threading.Semaphore(room), threading.Event()
        self._maker, self._rows = maker, rows
        self._cpu_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="gare-feed", daemon=True)
        self._thread.start()

    def take(self) -> _Made:
        """Return the next batch; raises the error that making it raised."""
        made = self._made.get()
        if isinstance(made, BaseException):
            raise made
        self._room.release()
        return made

    def stop(self) -> None:
        """End the thread and drop its batches."""
        self._stopped.set()
        self._room.release()
        # The garbage collector may drop a feed in the thread itself.
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._made = SimpleQueue()

    def _run(self) -> None:
        torch.set_num_threads(self._cpu_threads)
        threads = self._maker.threads
        try:
            with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as workers:
                for samples in self._rows:
                    self._room.acquire()
                    if self._stopped.is_set():
                        return
                    self._made.put(self._maker.make(samples, workers))
        except BaseException as error:  # noqa: BLE001 - raised again by the loop that takes the batches
            self._made.put(error)


def _on(batch: Batch, device: torch.device) -> Batch:
    """Copy the batch to a device; copies from page-locked memory are asynchronous."""
    if device.type == "cpu":
        return batch
    moved: dict[str, Any] = {}
    for name, tensor in _tensors(batch).items():
        held = tensor if tensor.is_pinned() else tensor.pin_memory()
        moved[name] = held.to(device, non_blocking=True)
    return replace(batch, **moved)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
