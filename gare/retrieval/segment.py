"""An opened segment of an index: its videos, records and codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gare.common.console import warn
from gare.common.errors import InputError
from gare.common.redact import first_line
from gare.retrieval.codes import SegmentCodes
from gare.retrieval.folder import VIDEOS, SegmentFiles
from gare.retrieval.media import Media, MediaFile
from gare.retrieval.records import RecordFile, RecordFormat


class Segment:
    """An opened part of an index: records are read on request, the rest is mapped."""

    def __init__(
        self, folder: Path, files: SegmentFiles, form: RecordFormat, rank: int | None, lists: int | None = None
    ) -> None:
        """Open the files. ``rank``: size of a code, None to leave them; ``lists``: number of lists, if there are any.

        Raises InputError naming a missing or damaged file.
        """
        count = files.videos
        self.table = _read_table(folder / files.about, count)
        self.alive = np.ones(count, bool)
        if files.deleted_bits is not None:
            self.alive = ~_read_bits(folder / files.deleted_bits, count)
        self.living = int(self.alive.sum())
        self.codes: SegmentCodes | None = None
        if files.codes is not None and rank is not None:
            self.codes = SegmentCodes.load(folder / files.codes, count, rank, lists)
        self.media: MediaFile | None = None
        self.lost_media: InputError | None = None
        if files.media is not None:
            try:
                self.media = MediaFile(folder / files.media, count)
            except InputError as error:  # search goes on without pictures
                self.lost_media = error
        self.records = RecordFile(folder / files.records, form.dtype, count)

    def __len__(self) -> int:
        return len(self.alive)

    def media_of(self, row: int, dim: int) -> Media | None:
        """Return what is kept to show a video; None if that is nothing, or is damaged, which is warned of once."""
        if self.media is None:
            return None
        try:
            return self.media.read(row, dim)
        except InputError as error:
            if self.lost_media is None:
                self.lost_media = error
                warn(str(error))
            return None

    def where(self, attributes: Mapping[str, str]) -> NDArray[np.bool_]:
        """Return which of its videos are not deleted and have all these attributes."""
        allowed = self.alive
        for name, value in attributes.items():
            found = pc.equal(pc.map_lookup(self.table["attributes"].combine_chunks(), name, "first"), value)
            allowed = allowed & np.asarray(pc.fill_null(found, False))
        return allowed

    @property
    def attributes(self) -> list[str]:
        """The names of all attributes of its videos."""
        keys = [chunk.keys for chunk in self.table["attributes"].chunks]
        return list(pc.unique(pa.chunked_array(keys, pa.string())).to_pylist()) if keys else []

    def row(self, video_id: str) -> int | None:
        """Return the row of a video that is not deleted, or None."""
        rows = np.flatnonzero(np.asarray(pc.equal(self.table["video_id"], video_id)) & self.alive)
        return int(rows[0]) if len(rows) else None


def _read_table(path: Path, count: int) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)  # unchecked offsets of a damaged file could crash the process
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"Cannot read {path}: {first_line(error)}. Make the index again.") from None
    if not table.schema.equals(VIDEOS) or table.num_rows != count or any(c.null_count for c in table.columns):
        raise InputError(f"{path} does not describe the {count} videos of its segment. Make the index again.")
    return table


def _read_bits(path: Path, count: int) -> NDArray[np.bool_]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}. Make the index again.") from None
    if len(content) != -(-count // 8):
        raise InputError(f"{path} does not have a bit for each of {count} videos. Make the index again.")
    return np.unpackbits(np.frombuffer(content, np.uint8), count=count).astype(bool)
