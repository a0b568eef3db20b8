"""Files of fixed-size records: one read gets all data for scoring a video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.scoring.factors import Factors, Rows
from gare.scoring.gallery import factors_of
from gare.scoring.head import PairHead
from gare.scoring.increment.compact import CompactFactors
from gare.scoring.increment.head import GareHead

THREADS = 16
"""Number of simultaneous reads, enough to keep a local disk busy."""

RUN_BYTES = 2**22
"""Most bytes of neighbouring records that one thread reads."""

Fields = dict[str, tuple[str, list[int]]]


def record_factors(head: PairHead) -> Factors[Any]:
    """Return how a search index stores the videos of a head: its smallest exact gallery, or the frames themselves."""
    if isinstance(head, GareHead):
        try:
            return CompactFactors(head)
        except ConfigError:  # the increments need more than the frames
            pass
    return factors_of(head)


@dataclass(frozen=True)
class RecordFormat:
    """Name, type and shape of each field of a record, as stored in ``index.json``."""

    fields: Fields

    @classmethod
    def of(cls, gallery: Rows) -> Self:
        """Return the format of a gallery's rows."""
        fields = {}
        for name, tensor in gallery.tensors().items():
            fields[name] = (torch.empty(0, dtype=tensor.dtype).numpy().dtype.name, list(tensor.shape[1:]))
        return cls(fields)

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The numpy type of a record: the widest fields first, so that all are aligned, and a multiple of 8 bytes."""
        kinds = {name: np.dtype((np.dtype(kind), tuple(shape))) for name, (kind, shape) in self.fields.items()}
        names = sorted(kinds, key=lambda name: (-kinds[name].base.itemsize, name))
        offsets = np.cumsum([0, *(kinds[name].itemsize for name in names)]).tolist()
        size = max(8, -(-offsets.pop() // 8) * 8)
        return np.dtype({"names": names, "formats": [kinds[n] for n in names], "offsets": offsets, "itemsize": size})

    def pack(self, gallery: Rows) -> NDArray[np.void]:
        """Pack a gallery into records."""
        tensors = gallery.tensors()
        records = np.zeros(len(gallery), self.dtype)
        for name, tensor in tensors.items():
            records[name] = tensor.cpu().numpy()
        return records

    @staticmethod
    def tensors(records: NDArray[np.void]) -> dict[str, Tensor]:
        """Return the fields of records as tensors, without copying."""
        return {name: torch.from_numpy(records[name]) for name in records.dtype.names or ()}


class RecordFile:
    """A file of records that many threads read at once; none of it stays in memory."""

    def __init__(self, path: Path, dtype: np.dtype[np.void], count: int) -> None:
        """Open the file. Raises InputError if it is missing or has the wrong length."""
        self.path, self.dtype, self.count = path, dtype, count
        try:
            self._stream: IO[bytes] = path.open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"Cannot read {path}: {error.strerror or error}. Make the index again.") from None
        size, expected = os.fstat(self._stream.fileno()).st_size, count * dtype.itemsize
        if size != expected:
            self._stream.close()
            raise InputError(f"{path} has {size} bytes, not the {expected} of its records. Make the index again.")

    def __len__(self) -> int:
        return self.count

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def read(self, rows: NDArray[np.int64], pool: ThreadPoolExecutor) -> NDArray[np.void]:
        """Read the records of these rows, in their order. Raises InputError if the file has become shorter."""
        order = np.argsort(rows, kind="stable")
        found = np.empty(len(rows), self.dtype)
        ordered = found if bool((order == np.arange(len(rows))).all()) else np.empty(len(rows), self.dtype)
        target = _bytes_of(ordered)
        try:
            list(pool.map(lambda run: self._read_run(run, target), self._runs(rows[order])))
        except OSError as error:
            raise InputError(f"Cannot read {self.path}: {error.strerror or error}.") from None
        if ordered is not found:
            found[order] = ordered
        return found

    def blocks(self, size: int, pool: ThreadPoolExecutor) -> Iterator[tuple[slice, NDArray[np.void]]]:
        """Yield all records in blocks of ``size``, with their places."""
        for start in range(0, self.count, size):
            part = slice(start, min(start + size, self.count))
            yield part, self.read(np.arange(part.start, part.stop), pool)

    def _runs(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Yield (first row, its place, number) of neighbours in sorted rows, at most ``RUN_BYTES`` each."""
        if not len(rows):
            return
        longest = max(1, RUN_BYTES // self.dtype.itemsize)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            for place in range(start, stop, longest):
                yield int(rows[place]), place, min(longest, stop - place)

    def _read_run(self, run: tuple[int, int, int], target: memoryview) -> None:
        row, place, number = run
        size, handle = self.dtype.itemsize, self._stream.fileno()
        at, stop, offset = place * size, (place + number) * size, row * size
        while at < stop:
            count = os.preadv(handle, [target[at:stop]], offset)
            if not count:
                raise InputError(f"{self.path} ended early: it was changed while it was read.")
            at, offset = at + count, offset + count


def read_pool() -> ThreadPoolExecutor:
    """Make a pool of threads that read records."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="records")


def write_records(stream: IO[bytes], records: NDArray[np.void]) -> None:
    """Append records to an open file."""
    stream.write(_bytes_of(records))


def _bytes_of(records: NDArray[np.void]) -> memoryview:
    return records.view(np.uint8).reshape(-1).data if len(records) else memoryview(b"")
