"""Change an index without encoding anything: delete videos, compact, check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gare.common.errors import InputError
from gare.common.redact import shown
from gare.retrieval.codes import Lists, save_lists
from gare.retrieval.fitting import asked_of, lists_of, recall_of
from gare.retrieval.folder import Generation, IndexRecord, damaged_files, next_generation
from gare.retrieval.index import SearchIndex
from gare.retrieval.model import IndexModel
from gare.retrieval.recall import Best, Recall
from gare.retrieval.records import RecordFormat, record_factors
from gare.retrieval.segment import Segment
from gare.retrieval.segment_writer import SegmentWriter
from gare.retrieval.stage import load_basis
from gare.retrieval.units import ENCODED, anchor_texts, record_scores
from gare.scoring.factors import slices


def delete_videos(folder: Path, video_ids: Sequence[str]) -> IndexRecord:
    """Delete videos from an index; ``compact_index`` frees their space on disk.

    Raises InputError, and deletes none, if one of them does not exist.
    """
    with next_generation(folder) as generation:
        record, wanted = generation.previous, set(video_ids)
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
    """Rewrite all segments as few full ones without the deleted videos; nothing is encoded or scored again.

    The lists of the first stage are made again if the index has none, or has grown to four times the videos.
    """
    with next_generation(folder) as generation:
        opened = SearchIndex.whole(folder, generation.previous, model)
        record, lists = _with_lists(generation, generation.previous, opened)
        with SegmentWriter(generation, lists) as writer:
            for segment, rows in _living(opened):
                codes = None if segment.codes is None else segment.codes.of_videos(torch.from_numpy(rows))
                media = None if segment.media is None else segment.media.table.take(rows)
                writer.add(segment.records.read(rows, opened.threads), segment.table.take(rows), codes, media)
        done = generation.commit(record.model_copy(update={"segments": writer.done}))
        return SearchIndex.of(folder, done, model)


def _with_lists(generation: Generation, record: IndexRecord, opened: SearchIndex) -> tuple[IndexRecord, Lists | None]:
    """Return the lists of an index, new ones if it has none or too few."""
    wanted = Lists.wanted(len(opened))
    if record.basis is None or (opened.lists is not None and len(opened.lists) * 2 > wanted):
        return record, opened.lists
    parts = (s.codes.of_videos(torch.from_numpy(rows)) for s, rows in _living(opened) if s.codes is not None)
    lists, name = lists_of(parts, len(opened)), f"g{generation.number}.lists"
    with generation.file(name) as path:
        save_lists(path, lists)
    # How many lists a search has to read is not known until the recall is measured again.
    recall = record.recall and replace(record.recall, probes=0)
    return record.model_copy(update={"lists": name, "recall": recall}), lists


def _living(opened: SearchIndex) -> Iterator[tuple[Segment, NDArray[np.int64]]]:
    """Yield the rows that are not deleted, block by block."""
    for segment in opened.segments:
        rows = np.flatnonzero(segment.alive)
        for part in slices(len(rows), ENCODED):
            yield segment, rows[part]


def check_index(folder: Path, model: IndexModel) -> SearchIndex:
    """Read every file of an index again, and measure the present recall of its first stage.

    Raises InputError naming a file that has changed or is missing.
    """
    with next_generation(folder) as generation:
        record = generation.previous
        if damaged := damaged_files(folder, record):
            raise InputError(f"{folder / damaged[0]} is damaged or gone. Make the index again.")
        opened = SearchIndex.whole(folder, record, model)
        if record.basis is None:
            return opened
        recall = _measured(opened, model)
        return SearchIndex.of(folder, generation.commit(record.model_copy(update={"recall": recall})), model)


@torch.no_grad()
def _measured(opened: SearchIndex, model: IndexModel) -> Recall:
    """Measure the recall of the first stage on the videos that are not deleted."""
    _, anchors = load_basis(opened.folder / str(opened.record.basis), model.model.dim)
    texts, asked = anchor_texts(model, anchors.held_out), asked_of(model, opened.basis, anchors)
    factors, best, firsts = record_factors(model.model.head), None, _firsts(opened)
    for segment, rows in _living(opened):
        assert segment.codes is not None  # noqa: S101 - all segments have codes, or none
        tensors = RecordFormat.tensors(segment.records.read(rows, opened.threads))
        for scores in record_scores(model, factors, [tensors], texts):
            approximate = segment.codes.of_videos(torch.from_numpy(rows)).scores(asked.queries)
            some = Best.of(scores, approximate, 0)
            some = replace(some, numbers=torch.from_numpy(rows)[some.numbers] + firsts[segment])
            best = some if best is None else best.merge(some)
    if best is None:
        raise InputError(f"All videos of the index {opened.folder} are deleted; there is nothing to measure.")
    return recall_of(best, asked, opened)


def _firsts(opened: SearchIndex) -> dict[Segment, int]:
    """Return the number of the first video of each segment."""
    starts = np.cumsum([0, *(len(segment) for segment in opened.segments)]).tolist()
    return dict(zip(opened.segments, starts, strict=False))
