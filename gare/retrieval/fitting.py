"""Fit the first stage of an index: its basis from a sample of records, codes of all, their lists and their recall."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from gare.common.errors import InputError
from gare.common.files import atomic_file, file_digest
from gare.retrieval.anchors import Anchors
from gare.retrieval.codes import PER_LIST, Codes, Lists
from gare.retrieval.index import SearchIndex
from gare.retrieval.model import IndexModel
from gare.retrieval.recall import Asked, Best, Recall
from gare.retrieval.records import Fields, RecordFile, RecordFormat, read_pool, record_factors
from gare.retrieval.stage import SAMPLE, Basis, load_basis, save_basis
from gare.retrieval.units import Change, Code, anchor_texts, held_out, read_codes, record_scores

CODED = 4096
"""Least number of videos that a task makes codes of, if there are as many."""

BASIS = "basis"
"""Name of a new basis in the folder of a change."""

RecordFiles = Sequence[tuple[str, int]]
"""Paths of record files inside an index, each with its number of records."""


@dataclass(frozen=True)
class Fit:
    """The codes of a change: ``tasks`` make them, with the basis at the path ``basis`` inside the index."""

    basis: str
    tasks: list[Code]
    anchors: Anchors


def fit_of(
    change: Change,
    model: IndexModel,
    files: RecordFiles,
    fields: Fields,
    given: str | None,
    texts: Iterable[str],
    *,
    measure: bool,
) -> Fit | None:
    """Plan the codes of record files, with a given basis or one fitted to them here; None for too few texts.

    ``given``: path of a basis inside the index. ``measure``: find the best videos for the held-out texts too.
    """
    building = change.building.relative_to(change.index)
    basis = given or f"{building}/{BASIS}"
    if given is None:
        anchors = Anchors.of(texts)
        if anchors is None:
            return None
        if not _fitted_before(change.building / BASIS, model, anchors):
            made = _fitted(change, model, files, fields, anchors)
            with atomic_file(change.building / BASIS) as path:
                save_basis(path, made, anchors)
    else:
        anchors = load_basis(change.index / given, model.model.dim)[1]
    named = f"codes-{file_digest(change.index / basis)[:16]}"  # those of another basis are not taken for them
    tasks = [Code(some, fields, basis, f"{named}-{number}", measure) for number, some in enumerate(_grouped(files))]
    return Fit(basis, tasks, anchors)


def _fitted_before(path: Path, model: IndexModel, anchors: Anchors) -> bool:
    try:
        return path.exists() and load_basis(path, model.model.dim)[1] == anchors
    except InputError:
        return False


def _grouped(files: RecordFiles) -> Iterator[list[tuple[str, int]]]:
    """Yield neighbouring files, together until they have enough videos for a task."""
    some: list[tuple[str, int]] = []
    for path, count in files:
        some.append((path, count))
        if sum(number for _, number in some) >= CODED:
            yield some
            some = []
    if some:
        yield some


@torch.no_grad()
def _fitted(change: Change, model: IndexModel, files: RecordFiles, fields: Fields, anchors: Anchors) -> Basis:
    """Fit a basis to the exact scores of a sample of the records."""
    texts, factors = anchor_texts(model, anchors.fitted), record_factors(model.model.head)
    form = model.check_format(fields, change.index)
    ends = np.cumsum([0, *(count for _, count in files)])
    picked = np.unique(np.linspace(0, ends[-1] - 1, min(SAMPLE, int(ends[-1]))).astype(np.int64))
    found = []
    with read_pool() as pool:
        for (path, count), (first, end) in zip(files, pairwise(ends), strict=True):
            rows = picked[(picked >= first) & (picked < end)] - first
            if len(rows):
                with closing(RecordFile(change.index / path, form.dtype, count)) as opened:
                    found.append(RecordFormat.tensors(opened.read(rows, pool)))
    scores = [scores.T for scores in record_scores(model, factors, found, texts)]
    return Basis.of(texts.text.cpu(), torch.cat(scores))


def lists_of(parts: Iterable[Codes], videos: int) -> Lists:
    """Find the lists of codes that come part by part."""
    count = Lists.wanted(videos)
    every = max(1, videos // (PER_LIST * count))
    sample, first = [], 0
    for codes in parts:
        sample.append(codes[torch.arange(-first % every, len(codes), every)])
        first += len(codes)
    return Lists.of(Codes.join(sample), count)


def made_codes(change: Change, tasks: Iterable[Code]) -> Iterator[Codes]:
    """Yield the codes of each file of some tasks, which are done."""
    for task in tasks:
        codes, first = read_codes(change.building / task.out)[0], 0
        for _, count in task.files:
            yield codes[slice(first, first + count)]
            first += count


def measured(change: Change, model: IndexModel, fit: Fit, opened: SearchIndex) -> Recall:
    """Return the recall of an index whose codes were all made by these tasks, in the order of its videos."""
    best, first = None, 0
    for task in fit.tasks:
        some = read_codes(change.building / task.out)[1]
        if some is not None:
            some = Best(some.scores, some.approximate, some.numbers + first)
            best = some if best is None else best.merge(some)
        first += sum(count for _, count in task.files)
    assert best is not None  # noqa: S101 - an index of no videos is not made
    return recall_of(best, asked_of(model, opened.basis, fit.anchors), opened)


def asked_of(model: IndexModel, basis: Basis | None, anchors: Anchors) -> Asked:
    """Return the held-out texts of a basis."""
    assert basis is not None  # noqa: S101 - only an index with a first stage is measured
    return held_out(basis, anchor_texts(model, anchors.held_out), anchors)


def recall_of(best: Best, asked: Asked, opened: SearchIndex) -> Recall:
    """Return the recall of an index from the best videos, by their numbers over all segments, deleted ones included."""
    ends = np.cumsum([len(segment) for segment in opened.segments])
    numbers, found = best.numbers.reshape(-1), []
    for segment, end in zip(opened.segments, ends.tolist(), strict=True):
        inside = (numbers >= end - len(segment)) & (numbers < end)
        assert segment.codes is not None  # noqa: S101
        found.append((inside, segment.codes.of_videos(numbers[inside] - (end - len(segment)))))
    rank = found[0][1].codes.shape[1]
    codes = Codes(torch.empty(len(numbers), rank, dtype=torch.int8), torch.empty(len(numbers)))
    for inside, some in found:
        codes.codes[inside], codes.scale[inside] = some.codes, some.scale
    living = (
        s.codes.of_videos(torch.from_numpy(np.flatnonzero(s.alive))) if s.living < len(s) else s.codes.codes
        for s in opened.segments
        if s.codes is not None
    )
    return asked.recall(best, living, opened.lists, codes)
