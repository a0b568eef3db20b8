"""Read a remote file in blocks, so that small scattered reads do not send a request each."""

from __future__ import annotations

import os
from functools import lru_cache

import pyarrow as pa

BLOCK_BYTES = 2**18
KEPT_BLOCKS = 4


class BlockFile:
    """A file for ``pyarrow.PythonFile`` that reads another one and keeps the last few blocks."""

    closed = False

    def __init__(self, source: pa.NativeFile, block: int = BLOCK_BYTES) -> None:
        self._source, self._block, self._size, self._at = source, block, int(source.size()), 0
        self._fetch = lru_cache(KEPT_BLOCKS)(self._read_block)

    def _read_block(self, number: int) -> bytes:
        start = number * self._block
        return bytes(self._source.read_at(min(self._block, self._size - start), start))

    def read(self, count: int = -1) -> bytes:
        """Read ``count`` bytes, or all that are left."""
        end = self._size if count < 0 else min(self._size, self._at + count)
        pieces = []
        while self._at < end:
            number, start = divmod(self._at, self._block)
            piece = self._fetch(number)[start : start + end - self._at]
            pieces.append(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in the file."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._at

    def close(self) -> None:
        """Do nothing: the caller closes the source."""
