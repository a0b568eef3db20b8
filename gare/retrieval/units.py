"""The work of making an index, in tasks that any process can do: encode the videos of a shard, make codes of records.

A finished task is a file in the folder of the change (``Generation.building``), which appears by a rename:

    N.records, N.arrow, N.media   the videos of shard N that the index does not have yet; the records come last
    codes-*                       the codes of some record files, and the best videos there for the held-out texts

So a change that was interrupted goes on with the tasks whose files are missing. A task gives the same bytes wherever it
runs, given one basis and processors of one kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor

from gare.common.errors import InputError
from gare.common.files import atomic_file, digest_of
from gare.common.redact import first_line
from gare.data.batches import View
from gare.data.shards import ShardSet, VideoInfo
from gare.evaluation.encode import encode_texts, encode_twice
from gare.retrieval.anchors import Anchors
from gare.retrieval.codes import Codes, read_tensors
from gare.retrieval.folder import VIDEOS, IndexRecord
from gare.retrieval.media import Kept, MediaWriter, make_media
from gare.retrieval.model import IndexModel
from gare.retrieval.recall import Asked, Best
from gare.retrieval.records import Fields, RecordFile, RecordFormat, read_pool, record_factors, write_records
from gare.retrieval.segment import Segment
from gare.retrieval.segment_writer import write_videos
from gare.retrieval.stage import Basis, load_basis
from gare.scoring.factors import ScoreStats, Texts, Videos, slices

ENCODED = 256
"""Number of videos whose frame vectors, or records, are in memory at once."""

FORMAT = b"gare.record"
"""Key under which the information on a unit's videos holds the format of its records."""


@dataclass(frozen=True)
class Change:
    """What a change of an index adds; the rest follows from model and shards. Any process can be sent it.

    ``index``: its folder; ``building``: the folder of finished tasks; ``storage``: type that frames are stored in;
    ``kept``: what is stored to show the videos; ``last``: the present record of an index that is appended to.
    """

    index: Path
    building: Path
    split: str
    storage: str
    kept: Kept
    last: IndexRecord | None

    @staticmethod
    def digest(
        model: IndexModel, dataset: ShardSet, split: str, storage: str, kept: Kept, last: IndexRecord | None
    ) -> str:
        """Return a name for all that decides what the tasks of a change write."""
        data = model.config.data.model_dump(mode="json")
        return digest_of([model.weights, data, dataset.digest, split, storage, vars(kept), last and last.generation])


@dataclass(frozen=True)
class Encode:
    """Encode the videos of a shard, by its number."""

    unit: int


@dataclass(frozen=True)
class Code:
    """Make codes of all records of some files, (path, number of records) each, with a basis.

    ``out``: name of the result; ``measure``: find the best videos for the held-out texts too.
    """

    files: list[tuple[str, int]]
    fields: Fields
    basis: str
    out: str
    measure: bool


Task = Encode | Code
Run = Callable[[Sequence[Task]], Iterable[int]]
"""Does tasks, in any order and anywhere, and yields the number of videos of each as it ends."""


class Worker:
    """Does tasks of a change with an open model and shards."""

    def __init__(self, change: Change, model: IndexModel, dataset: ShardSet) -> None:
        self._change, self._model, self._dataset = change, model, dataset
        self._factors = record_factors(model.model.head)
        self._pool = read_pool()
        self._fitted: tuple[str, Basis, Texts, Asked | None] | None = None

    @torch.no_grad()
    def do(self, task: Task) -> int:
        """Do a task and return its number of videos. Raises InputError if its files cannot be read or written."""
        return self._encode(task.unit) if isinstance(task, Encode) else self._code(task)

    def _encode(self, unit: int) -> int:
        part = self._dataset.part(unit, self._change.split)
        numbers = [n for n, video in enumerate(part.videos) if video.video_id not in self._known]
        form, tables, kept = self._form, [VIDEOS.empty_table()], self._change.kept
        view = View(self._model.config.data, self._model.model.image_size)
        with ExitStack() as stack:
            path = stack.enter_context(atomic_file(unit_records(self._change.building, unit)))
            media: MediaWriter | None = None
            if kept:
                shown = stack.enter_context(atomic_file(unit_media(self._change.building, unit)))
                media = stack.enter_context(MediaWriter(shown))
            with path.open("wb") as stream:
                for rows in slices(len(numbers), ENCODED):
                    before, gallery = self._gallery(part, numbers[rows])
                    if media is not None:
                        media.add(make_media(part, numbers[rows], view, before, kept))
                    found = RecordFormat.of(gallery)
                    form = form or found
                    if form != found:
                        raise InputError(
                            "The videos do not have the index's number of frames or settings; make a new index."
                        )
                    write_records(stream, form.pack(gallery))
                    tables.append(_about([part.videos[n] for n in numbers[rows]]))
            table = pa.concat_tables(tables)
            if form is not None:
                table = table.replace_schema_metadata({FORMAT: json.dumps(form.fields)})
            with atomic_file(unit_videos(self._change.building, unit)) as about:
                write_videos(about, table)
        return len(numbers)

    def _gallery(self, part: Any, numbers: Sequence[int]) -> tuple[Videos, Any]:
        """Return frame vectors from before the temporal transformer, and the factors."""
        config, dtype = self._model.config, torch.float16 if self._change.storage == "float16" else None
        before, encoded = encode_twice(self._model.model, part, config.data, config.runtime.eval_batch, numbers)
        largest = float(encoded.frames.abs().max())
        if dtype is not None and not largest <= torch.finfo(dtype).max:
            raise InputError(f"Frame vectors up to {largest:g} do not fit float16; keep them as float32.")
        return before, self._factors.build(encoded, dtype)

    def _code(self, task: Code) -> int:
        basis, texts, asked = self._stage(task)
        form = self._model.check_format(task.fields, self._change.index)
        fitted, parts = len(basis.fit), []
        best, first = None, 0
        for path, count in task.files:
            for scores in record_scores(self._model, self._factors, self._records(path, count, form), texts):
                parts.append(basis.codes(scores[:fitted].T))
                if asked is not None:
                    some = Best.of(scores[fitted:], parts[-1].scores(asked.queries), first)
                    best = some if best is None else best.merge(some)
                first += scores.shape[1]
        with atomic_file(self._change.building / task.out) as out:
            save_file(Codes.join(parts).tensors() | ({} if best is None else vars(best)), out)
        return first

    def _records(self, path: str, count: int, form: RecordFormat) -> Iterator[dict[str, Tensor]]:
        with closing(RecordFile(self._change.index / path, form.dtype, count)) as opened:
            for rows in slices(count, ENCODED):
                yield form.tensors(opened.read(np.arange(rows.start, rows.stop), self._pool))

    def _stage(self, task: Code) -> tuple[Basis, Texts, Asked | None]:
        if self._fitted is None or self._fitted[0] != task.basis:
            basis, anchors = load_basis(self._change.index / task.basis, self._model.model.dim)
            texts = anchor_texts(self._model, [*anchors.fitted, *(anchors.held_out if task.measure else [])])
            asked = held_out(basis, texts[slice(len(anchors.fitted), None)], anchors) if task.measure else None
            self._fitted = (task.basis, basis, texts, asked)
        return self._fitted[1:]

    @property
    def _form(self) -> RecordFormat | None:
        return None if self._change.last is None else RecordFormat(self._change.last.format)

    @cached_property
    def _known(self) -> frozenset[str]:
        """The ids of the videos that the index has."""
        return frozenset() if self._change.last is None else known_ids(self._change.index, self._change.last)


def run_here(worker: Worker) -> Run:
    """Return a function that does tasks one after the other."""
    return lambda tasks: map(worker.do, tasks)


def known_ids(folder: Path, record: IndexRecord) -> frozenset[str]:
    """Return the ids of all videos of an index that are not deleted."""
    found: set[str] = set()
    for files in record.segments:
        segment = Segment(folder, files, RecordFormat(record.format), None)
        segment.records.close()
        found.update(segment.table["video_id"].filter(pa.array(segment.alive)).to_pylist())
    return frozenset(found)


def record_scores(
    model: IndexModel, factors: Any, blocks: Iterable[dict[str, Tensor]], texts: Texts
) -> Iterator[Tensor]:
    """Yield the exact scores [B, V] of texts with blocks of records."""
    for tensors in blocks:
        yield factors.score(factors.read(tensors).to(model.device), texts, ScoreStats()).cpu()


def anchor_texts(model: IndexModel, texts: Sequence[str]) -> Texts:
    """Encode the texts of a first stage."""
    batch = model.config.runtime.eval_batch
    return encode_texts(model.model, model.tokenizer, texts, model.config.data.words, batch)


def held_out(basis: Basis, texts: Texts, anchors: Anchors) -> Asked:
    """Return the encoded held-out texts as the stage sees them."""
    queries, leverage = basis.queries(texts.text.cpu())
    words = torch.tensor(anchors.unknown_words(anchors.held_out))
    return Asked(queries, leverage, words, len(anchors.captions))


def unit_records(building: Path, unit: int) -> Path:
    """Return where the records of a unit are; its information is there as well if they are."""
    return building / f"{unit}.records"


def unit_videos(building: Path, unit: int) -> Path:
    """Return where the information on a unit's videos is."""
    return building / f"{unit}.arrow"


def unit_media(building: Path, unit: int) -> Path:
    """Return where the media of a unit's videos are, if they are kept."""
    return building / f"{unit}.media"


def read_unit_videos(building: Path, unit: int) -> tuple[pa.Table, Fields | None]:
    """Return the information on a unit's videos, and the format of its records; None if there are none."""
    path = unit_videos(building, unit)
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        found = (table.schema.metadata or {}).get(FORMAT)
        fields = None if found is None else {name: (kind, shape) for name, (kind, shape) in json.loads(found).items()}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"Cannot read {path}: {first_line(error)}. Remove {building} and try again.") from None
    return table.replace_schema_metadata(None), fields


def read_codes(path: Path) -> tuple[Codes, Best | None]:
    """Return what a task ``Code`` wrote."""
    tensors = read_tensors(path)
    codes = Codes(tensors["codes"], tensors["scale"])
    if "numbers" not in tensors:
        return codes, None
    return codes, Best(tensors["scores"], tensors["approximate"], tensors["numbers"])


def _about(videos: Sequence[VideoInfo]) -> pa.Table:
    rows = [{"video_id": v.video_id, "uri": v.uri, "attributes": [*v.attributes.items()]} for v in videos]
    return pa.Table.from_pylist(rows, VIDEOS)
