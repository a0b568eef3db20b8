"""Make an index of a split, or append to one: encode its shards, fit a first stage if it is large, write segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gare.common.errors import ConfigError, InputError
from gare.data.shards import ShardSet
from gare.retrieval.codes import Codes, Lists, load_lists, save_lists
from gare.retrieval.fitting import Fit, fit_of, lists_of, made_codes, measured
from gare.retrieval.folder import (
    INDEX_VERSION,
    Generation,
    IndexRecord,
    SegmentFiles,
    next_generation,
    read_index_file,
)
from gare.retrieval.index import SearchIndex
from gare.retrieval.media import Kept, MediaFile
from gare.retrieval.model import IndexModel
from gare.retrieval.records import Fields, RecordFile, read_pool
from gare.retrieval.segment_writer import SegmentWriter, write_codes
from gare.retrieval.stage import load_basis
from gare.retrieval.units import (
    ENCODED,
    Change,
    Encode,
    Run,
    Task,
    Worker,
    read_unit_videos,
    run_here,
    unit_media,
    unit_records,
)
from gare.scoring.factors import slices

Storage = Literal["float16", "float32"]

STAGE_ABOVE = 50_000
"""Up to this many videos, every search scores all of them and there is no first stage."""

RunOf = Callable[[Change], Run]
"""Returns how the tasks of a change are done, such as by Ray; without it, one after the other in this process."""


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
    fitted: Path | None = None,
    run_of: RunOf | None = None,
    on_videos: Callable[[int], None] = lambda _: None,
) -> SearchIndex:
    """Encode the videos of a split and save them as an index, replacing an index in the folder.

    After an interruption, the same call does the remaining work. Memory does not grow with the number of videos, except
    for what the shards record about them.

    Args:
        folder: where the index goes.
        model: encodes the videos.
        dataset: has the split.
        split: whose videos can be found.
        storage: the type frames are stored in.
        kept: what is stored to show the videos.
        stage_above: with more videos than this, fit a first stage on ``queries``.
        queries: sentences like those you will search with; the captions of the shards if None.
        fitted: an index of the same model, whose first stage's fit this one takes.
        run_of: how the work is done.
        on_videos: called with the number of videos that are encoded.

    Raises InputError for an empty split, frames that the storage cannot hold, and a folder that holds other things.
    """
    empty = InputError(f"The split {split!r} of {dataset.folder} is empty; there is nothing to index.")
    if not dataset.splits.get(split, {"videos": 1})["videos"]:
        raise empty
    with next_generation(folder, new=True) as generation:
        work = _Work.open(generation, model, dataset, split, storage, kept, run_of)
        units = work.encode(on_videos)
        if not sum(units.counts):
            raise empty
        record = IndexRecord(
            version=INDEX_VERSION,
            generation=generation.number,
            checkpoint=model.name,
            weights_sha256=model.weights,
            clip_data=model.config.data.model_dump(mode="json") if model.clip else None,
            dataset_digest=dataset.digest,
            split=split,
            storage=storage,
            format=units.fields,
            segments=[],
            previews=kept.previews,
            windows=kept.windows,
            digests={},
        )
        if fitted is not None:
            record = _with_fit_of(fitted, generation, record)
        return work.finish(record, units, stage_above, _texts(dataset, queries))


def append_videos(
    folder: Path,
    model: IndexModel,
    dataset: ShardSet,
    split: str,
    *,
    stage_above: int = STAGE_ABOVE,
    queries: Iterable[str] | None = None,
    run_of: RunOf | None = None,
    on_videos: Callable[[int], None] = lambda _: None,
) -> tuple[SearchIndex, int]:
    """Add the videos of a split that an index does not have yet; return the index and the number of added videos.

    An existing first stage keeps its fit; one is made if the index grows beyond ``stage_above``. The arguments are
    those of ``write_index``. Raises ConfigError if the model is not the index's own.
    """
    with next_generation(folder) as generation:
        record = generation.previous
        if model.weights != record.weights_sha256:
            raise ConfigError(f"The index {folder} was made with other weights than those in {model.name}.")
        opened = SearchIndex.whole(folder, record, model)
        kept = Kept(record.previews, record.windows)
        work = _Work.open(generation, model, dataset, split, record.storage, kept, run_of)
        units = work.encode(on_videos)
        added = sum(units.counts)
        if not added:
            generation.forget_building()
            return opened, 0
        return work.finish(record, units, stage_above, _texts(dataset, queries)), added


def _with_fit_of(source: Path, generation: Generation, record: IndexRecord) -> IndexRecord:
    """Copy the basis and lists of an index's first stage into a new one."""
    other = read_index_file(source)
    if other.weights_sha256 != record.weights_sha256:
        raise ConfigError(f"The index {source} was made with other weights than those in {record.checkpoint}.")
    names = {}
    for kind, name in (("basis", other.basis), ("lists", other.lists)):
        if name is not None:
            names[kind] = f"g{generation.number}.{kind}"
            with generation.file(names[kind]) as path:
                path.write_bytes((source / name).read_bytes())
    if not names:
        raise InputError(f"The index {source} has no first stage; make it with --stage-above 0 to have one.")
    return record.model_copy(update=names)


def _texts(dataset: ShardSet, queries: Iterable[str] | None) -> Callable[[], Iterable[str]]:
    """Return a function that provides the texts to fit a first stage on, called only if one is needed."""

    def captions() -> Iterator[str]:
        for split in dataset.splits:
            for part in dataset.parts(split):
                for video in part.videos:
                    yield from video.captions

    return captions if queries is None else lambda: queries


@dataclass(frozen=True)
class _Units:
    """``counts``: number of new videos of each shard; ``fields``: the format of their records."""

    counts: list[int]
    fields: Fields


@dataclass(frozen=True)
class _Work:
    """The work of a generation, and how its tasks are done."""

    generation: Generation
    change: Change
    model: IndexModel
    dataset: ShardSet
    run: Run

    @classmethod
    def open(
        cls,
        generation: Generation,
        model: IndexModel,
        dataset: ShardSet,
        split: str,
        storage: str,
        kept: Kept,
        run_of: RunOf | None,
    ) -> _Work:
        digest = Change.digest(model, dataset, split, storage, kept, generation.last)
        change = Change(generation.folder, generation.building(digest), split, storage, kept, generation.last)
        run = run_here(Worker(change, model, dataset)) if run_of is None else run_of(change)
        return cls(generation, change, model, dataset, run)

    def encode(self, on_videos: Callable[[int], None]) -> _Units:
        """Encode the shards that are not finished, and return what there is then."""
        units, building = range(len(self.dataset.manifest["shards"])), self.change.building
        counts: dict[int, int] = {}
        fields: Fields | None = None

        def look(unit: int) -> None:
            nonlocal fields
            table, form = read_unit_videos(building, unit)
            counts[unit], fields = len(table), fields or form

        todo = [unit for unit in units if not unit_records(building, unit).exists()]
        for unit in sorted({*units} - {*todo}):
            look(unit)
        done = sum(counts.values())
        on_videos(done)
        for videos in self.run([Encode(unit) for unit in todo]):
            done += videos
            on_videos(done)
        for unit in todo:
            look(unit)
        return _Units([counts[unit] for unit in units], fields or {})

    def finish(
        self, record: IndexRecord, units: _Units, stage_above: int, texts: Callable[[], Iterable[str]]
    ) -> SearchIndex:
        """Give an index its new videos, with the codes that are missing if it has a first stage or needs one."""
        fit, generation, folder = self._fit(record, units, stage_above, texts), self.generation, self.generation.folder
        codes: Iterator[Codes] = iter(())
        lists: Lists | None = None
        if fit is not None:
            done = {path.name for path in self.change.building.glob("codes-*")}
            tasks: list[Task] = [task for task in fit.tasks if task.out not in done]
            for _ in self.run(tasks):
                pass
            record, lists = self._with_basis(record, units, fit)
            codes = made_codes(self.change, fit.tasks)
        segments = []
        for files in record.segments:
            segments.append(files.model_copy())
            if fit is not None and files.codes is None:
                write_codes(generation, segments[-1], next(codes), lists)
        segments += self._segments(units, codes, lists)
        record = record.model_copy(update={"segments": segments})
        if record.basis is not None and record.recall is None and fit is not None:
            opened = SearchIndex.whole(folder, record, self.model)
            recall = measured(self.change, self.model, fit, opened)
            record = record.model_copy(update={"recall": recall})
        return SearchIndex.of(folder, generation.commit(record), self.model)

    def _fit(
        self, record: IndexRecord, units: _Units, stage_above: int, texts: Callable[[], Iterable[str]]
    ) -> Fit | None:
        """Plan the codes that are missing; None if there is to be no first stage."""
        if record.basis is None and record.videos + sum(units.counts) <= stage_above:
            return None
        building = self.change.building.name
        new = [(f"{building}/{unit}.records", count) for unit, count in enumerate(units.counts) if count]
        old = [(files.records, files.videos) for files in record.segments if files.codes is None]
        given = () if record.basis is not None else texts()
        measure = record.recall is None
        return fit_of(self.change, self.model, [*old, *new], record.format, record.basis, given, measure=measure)

    def _with_basis(self, record: IndexRecord, units: _Units, fit: Fit) -> tuple[IndexRecord, Lists | None]:
        """Give a record its basis and lists, new ones if it has none."""
        folder, number = self.change.index, self.generation.number
        basis = load_basis(folder / fit.basis, self.model.model.dim)[0]
        if record.basis is not None:
            rank = basis.directions.shape[1]
            return record, None if record.lists is None else load_lists(folder / record.lists, rank)
        names = {"basis": f"g{number}.basis", "lists": f"g{number}.lists"}
        with self.generation.file(names["basis"]) as path:
            path.write_bytes((folder / fit.basis).read_bytes())
        videos = sum(files.videos for files in record.segments) + sum(units.counts)
        lists = lists_of(made_codes(self.change, fit.tasks), videos)
        with self.generation.file(names["lists"]) as path:
            save_lists(path, lists)
        return record.model_copy(update=names), lists

    def _segments(self, units: _Units, codes: Iterator[Codes], lists: Lists | None) -> list[SegmentFiles]:
        """Write the new videos as segments."""
        form, building = self.model.check_format(units.fields, self.change.index), self.change.building
        with SegmentWriter(self.generation, lists) as writer, read_pool() as pool:
            for unit, count in enumerate(units.counts):
                if not count:
                    continue
                table, coded = read_unit_videos(building, unit)[0], next(codes, None)
                media = MediaFile(unit_media(building, unit), count).table if self.change.kept else None
                with closing(RecordFile(unit_records(building, unit), form.dtype, count)) as opened:
                    for rows in slices(count, ENCODED):
                        records = opened.read(np.arange(rows.start, rows.stop), pool)
                        shown = None if media is None else media[rows]
                        writer.add(records, table[rows], None if coded is None else coded[rows], shown)
        return writer.done
