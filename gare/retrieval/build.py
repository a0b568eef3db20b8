"""Make and change an index: segments from shards, a first stage from its records, deletions, compaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from gare.common.errors import ConfigError, InputError
from gare.common.redact import shown
from gare.data.batches import View
from gare.data.shards import ShardSet, Split, VideoInfo
from gare.evaluation.encode import encode_texts, encode_twice, encode_videos
from gare.retrieval.folder import (
    INDEX_VERSION,
    VIDEOS,
    Generation,
    IndexRecord,
    SegmentFiles,
    damaged_files,
    next_generation,
)
from gare.retrieval.index import SearchIndex, Segment
from gare.retrieval.media import MEDIA, Kept, make_media
from gare.retrieval.model import IndexModel
from gare.retrieval.records import RecordFormat, record_factors, write_records
from gare.retrieval.stage import (
    SAMPLE,
    Anchors,
    Basis,
    Codes,
    Measure,
    load_basis,
    load_codes,
    save_basis,
    save_codes,
)
from gare.scoring.factors import ScoreStats, Texts, Videos, slices

Storage = Literal["float16", "float32"]

ENCODED = 256
"""Number of videos whose frame vectors are in memory at once."""

SEGMENT_VIDEOS = 250_000
"""Most videos in a segment."""

STAGE_ABOVE = 50_000
"""Up to this many videos, every search scores all of them and there is no first stage."""

Row = tuple[str, str, dict[str, str]]


def write_index(
    folder: Path,
    model: IndexModel,
    dataset: ShardSet,
    split: str,
    *,
    storage: Storage = "float16",
    kept: Kept = Kept(),  # noqa: B008 - it is frozen
    stage_above: int = STAGE_ABOVE,
    queries: Iterable[str] | None = None,
) -> SearchIndex:
    """Encode the videos of a split and save them as an index, replacing an index in the folder.

    ``storage``: the type frames are stored in. ``kept``: what is stored to show the videos. ``stage_above``: with
    more videos than this, fit a first stage on ``queries`` (sentences like those you will search with), or on the
    captions of the shards. Memory does not grow with the number of videos, except for what the shards record about
    them. Raises InputError for an empty split, frames that the storage cannot hold, and a folder that holds other
    things.
    """
    if not dataset.splits.get(split, {"videos": 1})["videos"]:
        raise InputError(f"The split {split!r} of {dataset.folder} is empty; there is nothing to index.")
    with next_generation(folder, new=True) as generation:
        with _SegmentWriter(generation, model.config.data.frames) as writer:
            _encode(writer, model, dataset, split, storage, kept, known=frozenset())
        if not writer.done:
            raise InputError(f"The split {split!r} of {dataset.folder} is empty; there is nothing to index.")
        record = IndexRecord(
            version=INDEX_VERSION,
            generation=generation.number,
            checkpoint=model.name,
            weights_sha256=model.weights,
            clip_data=model.config.data.model_dump(mode="json") if model.clip else None,
            dataset_digest=dataset.digest,
            split=split,
            storage=storage,
            format=writer.form.fields,
            previews=kept.previews,
            windows=kept.windows,
            segments=writer.done,
            digests={},
        )
        return _with_stage(generation, record, model, stage_above, _texts(dataset, queries))


def append_videos(
    folder: Path,
    model: IndexModel,
    dataset: ShardSet,
    split: str,
    *,
    stage_above: int = STAGE_ABOVE,
    queries: Iterable[str] | None = None,
) -> tuple[SearchIndex, int]:
    """Add the videos of a split that an index does not have yet; return the index and the number of added videos.

    An existing first stage keeps its fit; one is made if the index grows beyond ``stage_above``. Raises ConfigError if
    the model is not the index's own.
    """
    with next_generation(folder) as generation:
        record = _last(generation)
        if model.weights != record.weights_sha256:
            raise ConfigError(f"The index {folder} was made with other weights than those in {model.name}.")
        opened = _whole(folder, record, model)
        known = frozenset(
            video_id
            for segment in opened.segments
            for video_id, alive in zip(segment.table["video_id"].to_pylist(), segment.alive, strict=True)
            if alive
        )
        with _SegmentWriter(generation, model.config.data.frames, RecordFormat(record.format)) as writer:
            kept = Kept(record.previews, record.windows)
            added = _encode(writer, model, dataset, split, record.storage, kept, known)
        if not added:
            return opened, 0
        record = record.model_copy(update={"segments": [*record.segments, *writer.done]})
        return _with_stage(generation, record, model, stage_above, _texts(dataset, queries)), added


def delete_videos(folder: Path, video_ids: Sequence[str]) -> IndexRecord:
    """Delete videos from an index; ``compact_index`` frees their space on disk.

    Raises InputError, and deletes none, if one of them does not exist.
    """
    with next_generation(folder) as generation:
        record, wanted = _last(generation), set(video_ids)
        segments = []
        for files in record.segments:
            segment = Segment(folder, files, RecordFormat(record.format), None)
            ids = segment.table["video_id"].to_pylist()
            gone = segment.alive & np.array([video_id in wanted for video_id in ids], bool)
            wanted -= {ids[row] for row in np.flatnonzero(gone)}
            if gone.any():
                stem, dead = files.records.partition("-")[0], ~segment.alive | gone
                name = f"{stem}-g{generation.number}.deleted"
                with generation.file(name) as path:
                    path.write_bytes(np.packbits(dead).tobytes())
                segments.append(files.model_copy(update={"deleted": int(dead.sum()), "deleted_bits": name}))
            else:
                segments.append(files)
        if wanted:
            raise InputError(f"The index {folder} has no video {shown(min(wanted))}; nothing was deleted.")
        return generation.commit(record.model_copy(update={"segments": segments}))


def compact_index(folder: Path, model: IndexModel) -> SearchIndex:
    """Rewrite all segments as few full ones without the deleted videos; nothing is encoded or scored again."""
    with next_generation(folder) as generation:
        record = _last(generation)
        opened = _whole(folder, record, model)
        with _SegmentWriter(generation, model.config.data.frames, RecordFormat(record.format)) as writer:
            for segment in opened.segments:
                rows = np.flatnonzero(segment.alive)
                for part in slices(len(rows), ENCODED):
                    taken = torch.from_numpy(rows[part])
                    codes = None if segment.codes is None else segment.codes[taken]
                    records = segment.records.read(rows[part], opened.threads)
                    media = None if segment.media is None else segment.media.table.take(rows[part])
                    writer.add(records, segment.table.take(rows[part]), codes, media)
        done = generation.commit(record.model_copy(update={"segments": writer.done}))
        return SearchIndex.of(folder, done, model)


def check_index(folder: Path, model: IndexModel) -> SearchIndex:
    """Read every file of an index again, and measure the present recall of its first stage.

    Raises InputError naming a file that has changed or is missing.
    """
    with next_generation(folder) as generation:
        record = _last(generation)
        if damaged := damaged_files(folder, record):
            raise InputError(f"{folder / damaged[0]} is damaged or gone. Make the index again.")
        opened = _whole(folder, record, model)
        if record.basis is None:
            return opened
        basis, anchors = load_basis(folder / record.basis, model.model.dim)
        measure = _measure(model, basis, anchors)
        held_out = _encoded(model, anchors.held_out)
        for segment, files in zip(opened.segments, record.segments, strict=True):
            rows, codes = np.flatnonzero(segment.alive), segment.codes
            if codes is None:
                raise InputError(f"The segment {files.records} of {folder} has no codes. Make the index again.")
            for part, scores in _scores(opened, rows, segment, held_out):
                measure.add(scores, codes[torch.from_numpy(rows[part])])
        recall = measure.recall(
            s.codes[torch.from_numpy(np.flatnonzero(s.alive))] for s in opened.segments if s.codes is not None
        )
        return SearchIndex.of(folder, generation.commit(record.model_copy(update={"recall": recall})), model)


def _last(generation: Generation) -> IndexRecord:
    assert generation.last is not None  # noqa: S101 - only a new index has none
    return generation.last


def _whole(folder: Path, record: IndexRecord, model: IndexModel) -> SearchIndex:
    """Open all segments of an index for a change. Raises InputError if a part cannot be read."""
    opened = SearchIndex.of(folder, record, model)
    if opened.missing or any(segment.lost_media for segment in opened.segments):
        raise InputError(f"A part of the index {folder} cannot be read, so it cannot be changed. Make it again.")
    return opened


def _texts(dataset: ShardSet, queries: Iterable[str] | None) -> Callable[[], Iterable[str]]:
    """Return a function that provides the texts to fit a first stage on, called only if one is needed."""

    def captions() -> Iterator[str]:
        for split in dataset.splits:
            for part in dataset.parts(split):
                for video in part.videos:
                    yield from video.captions

    return captions if queries is None else lambda: queries


class _SegmentWriter:
    """Writes records, and information on their videos, into segments of bounded size."""

    def __init__(self, generation: Generation, frames: int, form: RecordFormat | None = None) -> None:
        self.done: list[SegmentFiles] = []
        self.frames, self._generation, self._form = frames, generation, form
        self._open: ExitStack | None = None
        self._count = 0

    @property
    def form(self) -> RecordFormat:
        """The format of the records, known from the first one on."""
        assert self._form is not None  # noqa: S101
        return self._form

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            if error is None:
                self._close()
            else:
                self._open.__exit__(kind, error, trace)

    def pack(self, gallery: Any) -> NDArray[np.void]:
        """Pack a gallery into records. Raises InputError if their format differs from earlier ones."""
        form = RecordFormat.of(gallery)
        self._form = self._form or form
        if form != self._form:
            raise InputError("The videos do not have the index's number of frames or settings; make a new index.")
        return form.pack(gallery)

    def add(
        self, records: NDArray[np.void], table: pa.Table, codes: Codes | None = None, media: pa.Table | None = None
    ) -> None:
        """Append some videos, with their codes if they already have some, and with their media if they are kept."""
        if self._open is not None and self._count + len(records) > SEGMENT_VIDEOS:
            self._close()
        if self._open is None:
            self._begin(codes=codes is not None, media=media is not None)
        write_records(self._records, records)
        self._about.write_table(table)
        if codes is not None:
            self._codes.append(codes)
        if media is not None:
            self._media.write_table(media)
        self._count += len(records)

    def _begin(self, *, codes: bool, media: bool) -> None:
        stem = self._generation.segment()
        self._files = SegmentFiles(videos=0, records=f"{stem}.records", about=f"{stem}.arrow")
        if codes:
            self._files.codes = f"{stem}.codes"
        self._codes: list[Codes] = []
        self._count, self._open = 0, ExitStack()
        path = self._open.enter_context(self._generation.file(self._files.records))
        self._records: IO[bytes] = self._open.enter_context(path.open("wb"))
        path = self._open.enter_context(self._generation.file(self._files.about))
        self._about = self._open.enter_context(pa.ipc.new_file(str(path), VIDEOS))
        if media:
            self._files.media = f"{stem}.media"
            path = self._open.enter_context(self._generation.file(self._files.media))
            self._media = self._open.enter_context(pa.ipc.new_file(str(path), MEDIA))

    def _close(self) -> None:
        stack, self._open = self._open, None
        assert stack is not None  # noqa: S101
        stack.close()
        if self._files.codes is not None:
            with self._generation.file(self._files.codes) as path:
                save_codes(path, Codes.join(self._codes))
        self._files.videos = self._count
        self.done.append(self._files)


def _encode(
    writer: _SegmentWriter,
    model: IndexModel,
    dataset: ShardSet,
    split: str,
    storage: str,
    kept: Kept,
    known: frozenset[str],
) -> int:
    """Encode the videos of a split that are not known yet, block by block, and return their number."""
    dtype = torch.float16 if storage == "float16" else None
    factors, added = record_factors(model.model.head), 0
    for part in dataset.parts(split):
        numbers = [n for n, video in enumerate(part.videos) if video.video_id not in known]
        for rows in slices(len(numbers), ENCODED):
            before, encoded = _frames(model, part, numbers[rows], kept)
            largest = encoded.frames.abs().max()
            if dtype is not None and not float(largest) <= torch.finfo(dtype).max:
                raise InputError(f"Frame vectors up to {float(largest):g} do not fit float16; keep them as float32.")
            records = writer.pack(factors.build(encoded, dtype))
            about = _about([part.videos[n] for n in numbers[rows]])
            view = View(model.config.data, model.model.image_size)
            media = make_media(part, numbers[rows], view, before, kept) if kept else None
            writer.add(records, about, media=media)
            added += len(records)
    return added


def _frames(model: IndexModel, part: Split, numbers: Sequence[int], kept: Kept) -> tuple[Videos | None, Videos]:
    """Return frame vectors from before the temporal transformer, if windows are kept, and those after it."""
    data, batch = model.config.data, model.config.runtime.eval_batch
    if kept.windows:
        return encode_twice(model.model, part, data, batch, numbers)
    return None, encode_videos(model.model, part, data, batch, videos=numbers)


def _about(videos: Sequence[VideoInfo]) -> pa.Table:
    rows = [{"video_id": v.video_id, "uri": v.uri, "attributes": [*v.attributes.items()]} for v in videos]
    return pa.Table.from_pylist(rows, VIDEOS)


def _with_stage(
    generation: Generation,
    record: IndexRecord,
    model: IndexModel,
    stage_above: int,
    texts: Callable[[], Iterable[str]],
) -> SearchIndex:
    """Make the missing codes if the index has a first stage or is large enough for one, then commit."""
    folder = generation.folder
    if record.basis is None and record.videos <= stage_above:
        return SearchIndex.of(folder, generation.commit(record), model)
    opened = _whole(folder, record.model_copy(update={"basis": None}), model)
    if record.basis is not None:
        basis, anchors = load_basis(folder / record.basis, model.model.dim)
    else:
        drawn = Anchors.of(texts())
        if drawn is None:
            # Too few captions to fit a stage: every search scores all videos.
            return SearchIndex.of(folder, generation.commit(record), model)
        anchors, basis = drawn, _fitted(opened, model, drawn)
        record = record.model_copy(update={"basis": f"g{generation.number}.basis"})
        with generation.file(f"g{generation.number}.basis") as path:
            save_basis(path, basis, anchors)
    measure = _measure(model, basis, anchors) if record.recall is None else None
    texts_of_both = _encoded(model, [*anchors.fit, *(anchors.held_out if measure else [])])
    segments = []
    for segment, files in zip(opened.segments, record.segments, strict=True):
        name = f"{files.records.partition('-')[0]}-g{generation.number}.codes"
        if files.codes is None:
            parts = []
            for _, scores in _scores(opened, np.arange(len(segment)), segment, texts_of_both):
                parts.append(basis.codes(scores[: len(anchors.fit)].T))
                if measure is not None:
                    measure.add(scores[len(anchors.fit) :], parts[-1])
            with generation.file(name) as path:
                save_codes(path, Codes.join(parts))
        segments.append(files.model_copy(update={"codes": files.codes or name}))
    if measure is not None:
        rank = basis.directions.shape[1]
        recall = measure.recall(load_codes(folder / f.codes, f.videos, rank) for f in segments if f.codes)
        record = record.model_copy(update={"recall": recall})
    return SearchIndex.of(folder, generation.commit(record.model_copy(update={"segments": segments})), model)


def _fitted(opened: SearchIndex, model: IndexModel, anchors: Anchors) -> Basis:
    """Fit the basis of an index to the exact scores of a sample of its videos."""
    texts = _encoded(model, anchors.fit)
    ends = np.cumsum([0, *map(len, opened.segments)])
    picked = np.unique(np.linspace(0, ends[-1] - 1, min(SAMPLE, int(ends[-1]))).astype(np.int64))
    chosen = [picked[(picked >= a) & (picked < b)] - a for a, b in pairwise(ends)]
    factors = record_factors(model.model.head)
    scores = [factors.score(gallery, texts, ScoreStats()).T.cpu() for gallery in opened.galleries(chosen)]
    return Basis.of(texts.text.cpu(), torch.cat(scores))


def _scores(
    opened: SearchIndex, rows: NDArray[np.int64], segment: Any, texts: Texts
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the exact scores of texts with rows of a segment, block by block."""
    factors, start = record_factors(opened.model.model.head), 0
    chosen = [rows if one is segment else rows[:0] for one in opened.segments]
    for gallery in opened.galleries(chosen):
        yield slice(start, start + len(gallery)), factors.score(gallery, texts, ScoreStats()).cpu()
        start += len(gallery)


def _encoded(model: IndexModel, texts: Sequence[str]) -> Texts:
    batch = model.config.runtime.eval_batch
    return encode_texts(model.model, model.tokenizer, texts, model.config.data.words, batch)


def _measure(model: IndexModel, basis: Basis, anchors: Anchors) -> Measure:
    queries, leverage = basis.queries(_encoded(model, anchors.held_out).text.cpu())
    return Measure(queries, leverage, len(anchors.captions))
