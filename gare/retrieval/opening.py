"""Open an index of this version, or of version 2, whose records are made in memory from its file of factors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors import SafetensorError

from gare.common.errors import InputError
from gare.common.records import LENIENT, checked
from gare.common.redact import first_line
from gare.retrieval.folder import (
    INDEX_FILE,
    VIDEOS,
    IndexRecord,
    SegmentFiles,
    read_index_file,
    read_index_values,
)
from gare.retrieval.index import SearchIndex
from gare.retrieval.model import IndexModel
from gare.retrieval.records import RecordFile, RecordFormat, record_factors
from gare.retrieval.segment import Segment
from gare.scoring.factors import Videos
from gare.scoring.video_index import VideoIndex

FORMER_VERSION = 2
VECTORS_FILE = "vectors.safetensors"

OPENINGS = 3
"""Number of times to reopen an index that another process changes while it is being opened."""


def open_index(folder: Path, checkpoint: Path | None = None) -> SearchIndex:
    """Open an index and the model it was made with, or a copy of the model elsewhere (``checkpoint``).

    Raises InputError if the folder is not an index or its model is gone; ConfigError for a different model.
    """
    values = read_index_values(folder)
    if values.get("version") == FORMER_VERSION:
        return _open_former(folder, values, checkpoint)
    record = read_index_file(folder)
    return reopen_index(folder, record, IndexModel.of_index(folder, record, checkpoint))


def reopen_index(folder: Path, record: IndexRecord, model: IndexModel) -> SearchIndex:
    """Open an index whose model is loaded already; if it is changed meanwhile, its newer generation."""
    for _ in range(OPENINGS):
        try:
            opened = SearchIndex.of(folder, record, model)
            if not opened.missing and not any(segment.lost_media for segment in opened.segments):
                return opened
        except InputError:
            if read_index_file(folder).generation == record.generation:
                raise
        newer = read_index_file(folder)
        if newer.generation == record.generation:
            return opened
        record = newer  # another process changed the index while it was opened
    return SearchIndex.of(folder, record, model)


class _Video(BaseModel):
    model_config = LENIENT

    video_id: str
    uri: str


class _Record(BaseModel):
    """The required content of ``index.json`` of version 2."""

    model_config = LENIENT

    checkpoint: str
    weights_sha256: str
    dataset_digest: str = ""
    split: str
    videos: list[_Video]


class _RecordsInMemory(RecordFile):
    """Records in memory only."""

    def __init__(self, records: NDArray[np.void]) -> None:
        self._records, self.dtype, self.count = records, records.dtype, len(records)

    def close(self) -> None:
        """Do nothing."""

    def read(self, rows: NDArray[np.int64], pool: ThreadPoolExecutor) -> NDArray[np.void]:
        """Return the records of these rows, in their order."""
        del pool
        return self._records[rows]


class _SegmentInMemory(Segment):
    def __init__(self, table: pa.Table, records: RecordFile) -> None:
        self.table, self.records, self.codes = table, records, None
        self.media = self.lost_media = None
        self.alive, self.living = np.ones(len(table), bool), len(table)


@torch.no_grad()
def _open_former(folder: Path, values: object, moved: Path | None) -> SearchIndex:
    """Open an index of version 2; ``values`` is the content of its ``index.json``.

    It answers, but cannot be changed. Raises InputError if it is damaged or its model (``moved``: a copy elsewhere) is
    gone, and ConfigError if that has other weights.
    """
    path = folder / INDEX_FILE
    try:
        found = checked(_Record, values)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); make the index again.") from None
    record = IndexRecord(
        version=FORMER_VERSION,
        generation=0,
        checkpoint=found.checkpoint,
        weights_sha256=found.weights_sha256,
        dataset_digest=found.dataset_digest,
        split=found.split,
        storage="float32",
        format={},
        segments=[SegmentFiles(videos=len(found.videos), records=VECTORS_FILE, about=INDEX_FILE)],
        digests={},
    )
    model = IndexModel.of_index(folder, record, moved)
    try:
        index = VideoIndex.load(model.model, folder / VECTORS_FILE)
        videos = Videos(index.frames, index.frame_mask)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"Cannot read {folder / VECTORS_FILE}: {first_line(error)}. Make the index again.") from None
    except KeyError:  # a head that kept no frames
        raise InputError(f"The index {folder} has version {FORMER_VERSION} and no frames. Make it again.") from None
    if len(found.videos) != len(index):
        raise InputError(f"{path} does not name the {len(index)} videos of the index. Make it again.")
    gallery = record_factors(model.model.head).build(videos, None)
    form = RecordFormat.of(gallery)
    rows = [{"video_id": video.video_id, "uri": video.uri, "attributes": []} for video in found.videos]
    segment = _SegmentInMemory(pa.Table.from_pylist(rows, VIDEOS), _RecordsInMemory(form.pack(gallery)))
    return SearchIndex(folder, record.model_copy(update={"format": form.fields}), model, [segment])
