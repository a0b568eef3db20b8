"""Search an index: candidates from the first stage if there is one, then the exact score of those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from gare.common.console import warn
from gare.common.errors import InputError
from gare.common.redact import shown
from gare.evaluation.encode import encode_texts
from gare.retrieval.anchors import Anchors
from gare.retrieval.codes import Codes, Lists, load_lists
from gare.retrieval.folder import IndexRecord
from gare.retrieval.model import IndexModel
from gare.retrieval.recall import TOP
from gare.retrieval.records import RecordFormat, read_pool, record_factors
from gare.retrieval.segment import Segment
from gare.retrieval.stage import Basis, load_basis
from gare.scoring.factors import Factors, Rows, ScoreStats, Texts
from gare.scoring.mean_pool import MeanGallery, video_vectors

BLOCK = 2048
"""Number of records scored at once."""

FEW = 2000
"""If a filter leaves at most this many videos, all of them are scored exactly."""

WIDE = 10
"""Factor on the number of candidates for a query of unknown vocabulary."""

LIKE = 20
"""Candidates of the first stage per requested video in a search for similar videos."""


@dataclass(frozen=True)
class Hit:
    """One answer: its rank from 1, its score (a cosine), the video's id and its source file or address.

    ``seconds``: start and end in that file of the window that the query fits best, if the index keeps windows.
    """

    rank: int
    score: float
    video_id: str
    uri: str
    seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Searched:
    """Facts about a search.

    ``videos``: number of possible answers; ``scored``: how many were scored exactly. ``recall``: the share of the exact
    top 10 that this many candidates contain on this index; 1 if all were scored, None if unknown. ``unknown``: the
    query's words are unlike all that the first stage knows, so the search was wide. ``missing``: videos in parts of the
    index that cannot be read.
    """

    videos: int
    scored: int
    recall: float | None = 1.0
    unknown: bool = False
    missing: int = 0

    @property
    def partial(self) -> bool:
        """True if a part of the index could not be searched."""
        return self.missing > 0

    def __str__(self) -> str:
        """Describe the search in a line."""
        if self.scored >= self.videos:
            found = f"scored all {self.videos:,} videos"
        else:
            found = f"scored {self.scored:,} of {self.videos:,} videos"
            if self.recall is not None:
                found += f"; holds {100 * self.recall:.1f} % of the exact top 10 on this index"
        if self.unknown:
            found += "; the words are unlike the captions that the index knows, so the search was wide"
        return found + (f"; {self.missing:,} videos cannot be read" if self.missing else "")


Place = tuple[int, int]
"""Number of a segment of an opened index, and the row of a video in it."""


class Hits(list[Hit]):
    """The answers, best first; ``searched`` tells how they were found, ``places`` where they are in the index."""

    def __init__(self, hits: list[Hit], searched: Searched, places: list[Place]) -> None:
        super().__init__(hits)
        self.searched, self.places = searched, places


@dataclass(repr=False)
class SearchIndex:
    """An opened index with its model; ``folder`` is its place."""

    folder: Path
    record: IndexRecord
    model: IndexModel
    segments: list[Segment]
    missing: int = 0
    basis: Basis | None = None
    anchors: Anchors | None = None
    lists: Lists | None = None
    _factors: Factors[Any] = field(init=False)
    threads: ThreadPoolExecutor = field(init=False, default_factory=read_pool)

    def __post_init__(self) -> None:
        self._factors = record_factors(self.model.model.head)

    def __repr__(self) -> str:
        """Name the folder and its size, not the weights."""
        return f"SearchIndex(folder={str(self.folder)!r}, checkpoint={str(self.checkpoint)!r}, videos={len(self)})"

    def __len__(self) -> int:
        """Count the videos that can be found."""
        return sum(segment.living for segment in self.segments)

    @cached_property
    def shares_files(self) -> bool:
        """True if some of its videos are clips of one file."""
        return any(pc.count_distinct(s.table["uri"]).as_py() < len(s) for s in self.segments)

    @property
    def checkpoint(self) -> str:
        """The place of the model: a checkpoint, or a CLIP's folder or hub id."""
        return self.model.name

    def candidates(self, top: int) -> int:
        """Return how many videos a search for ``top`` scores exactly."""
        videos, recall = len(self), self.record.recall
        if self.basis is None or recall is None or videos <= FEW:
            return videos
        return min(recall.choose(top, videos), videos)

    def encode(self, query: str) -> Texts:
        """Encode a sentence. Raises InputError if it is empty or not valid text."""
        if not query.strip():
            raise InputError("The query is empty; give a sentence in quotes.")
        if any("\ud800" <= character <= "\udfff" for character in query):
            raise InputError("The query is not valid UTF-8 text.")
        model = self.model
        return encode_texts(model.model, model.tokenizer, [query], model.config.data.words, 1)

    @torch.no_grad()
    def search(
        self,
        query: str,
        top: int,
        *,
        where: Mapping[str, str] | None = None,
        exact: bool = False,
        first_stage: int | None = None,
        texts: Texts | None = None,
    ) -> Hits:
        """Return the ``top`` videos for a sentence, best first; ties in index order.

        Each score is exactly the model's for the frames as the index stores them (float16 by default).

        ``where``: attributes the videos must have. ``exact``: score every video. ``first_stage``: score this many
        candidates instead of the number the index chooses by its own recall. ``texts``: what ``encode`` made of the
        query. Raises InputError for a query that is empty or invalid text, and for an attribute that no video has.
        """
        texts = self.encode(query) if texts is None else texts
        allowed = self._allowed(where or {})
        chosen, searched = self._candidates(query, texts, allowed, top, exact=exact, wanted=first_stage)
        scores = self.scores(chosen, lambda gallery: self._factors.score(gallery, texts, ScoreStats())[0])
        return self._hits(chosen, scores, top, searched)

    @torch.no_grad()
    def like(self, video_id: str, top: int, *, where: Mapping[str, str] | None = None, exact: bool = False) -> Hits:
        """Return the ``top`` videos most like one of the index, without it; scores are cosines of the frames' means.

        Raises InputError if the index has no such video.
        """
        number, row = self.find(video_id)
        vector = self._vectors(
            [np.array([row]) if n == number else np.array([], int) for n in range(len(self.segments))]
        )
        allowed = self._allowed(where or {})
        allowed[number] = allowed[number].copy()
        allowed[number][row] = False
        videos, wanted = sum(int(mask.sum()) for mask in allowed), LIKE * max(top, TOP)
        codes = self.segments[number].codes
        if codes is not None and not exact and videos > max(FEW, wanted):
            chosen = self.best(codes.of_videos(torch.tensor([row])).vectors()[0], allowed, wanted)
        else:
            chosen = [np.flatnonzero(mask) for mask in allowed]
        scored = sum(map(len, chosen))
        searched = Searched(videos, scored, 1.0 if scored == videos else None, missing=self.missing)
        scores = self._vectors(chosen) @ vector[0] if scored else torch.zeros(0)
        return self._hits(chosen, scores, top, searched)

    def scores(self, chosen: list[NDArray[np.int64]], score: Callable[[Rows], Tensor]) -> Tensor:
        """Apply ``score`` to the galleries of chosen rows of each segment; join the results along the first axis."""
        parts = [score(gallery).float().cpu() for gallery in self.galleries(chosen)]
        found = torch.cat(parts) if parts else torch.zeros(0)
        if not bool(torch.isfinite(found).all()):
            raise InputError("The index holds values that are no finite numbers: it is damaged. Make it again.")
        return found

    def galleries(self, chosen: list[NDArray[np.int64]], block: int = BLOCK) -> Iterator[Rows]:
        """Yield the galleries of chosen rows of each segment, block by block."""
        for segment, rows in zip(self.segments, chosen, strict=True):
            for start in range(0, len(rows), block):
                records = segment.records.read(rows[start : start + block], self.threads)
                yield self._factors.read(RecordFormat.tensors(records)).to(self.model.device)

    def _allowed(self, where: Mapping[str, str]) -> list[NDArray[np.bool_]]:
        for name in where:
            known = {key for segment in self.segments for key in segment.attributes}
            if name not in known:
                there = ", ".join(sorted(map(shown, known))) or "none"
                raise InputError(f"No video of the index has an attribute {shown(name)}; there are: {there}.")
        return [segment.where(where) for segment in self.segments]

    def _candidates(
        self, query: str, texts: Texts, allowed: list[NDArray[np.bool_]], top: int, *, exact: bool, wanted: int | None
    ) -> tuple[list[NDArray[np.int64]], Searched]:
        filtered = any(mask is not segment.alive for mask, segment in zip(allowed, self.segments, strict=True))
        videos = sum(int(mask.sum()) for mask in allowed) if filtered else len(self)
        recall, basis = self.record.recall, self.basis
        if wanted is not None and not exact and basis is None:
            raise InputError(
                f"The index {self.folder} has no first stage: it scores all of its {videos} videos. "
                "Make it with --stage-above 0 to have one."
            )
        everything = Searched(videos, videos, missing=self.missing)
        if exact or basis is None or recall is None:
            return [np.flatnonzero(mask) for mask in allowed], everything
        queries, leverage = basis.queries(texts.text.cpu())
        words = self.anchors.unknown_words([query])[0] if self.anchors is not None else 0.0
        unknown = recall.is_unknown(float(leverage[0]), words)
        count = max(wanted or recall.choose(top, len(self)) * (WIDE if unknown else 1), top)
        if videos <= count or (wanted is None and videos <= FEW):
            return [np.flatnonzero(mask) for mask in allowed], everything
        # How much the lists hold is known of all videos and of texts like the captions.
        probes = None if unknown or filtered or self.lists is None else recall.lists(count, len(self.lists))
        known = None if unknown else recall.at(count)
        searched = Searched(videos, count, known, unknown, self.missing)
        return self.best(queries[0], allowed, count, probes), searched

    def best(
        self, query_R: Tensor, allowed: list[NDArray[np.bool_]], count: int, probes: int | None = None
    ) -> list[NDArray[np.int64]]:
        """Return the rows of each segment among the best ``count`` of the allowed by the first stage, in order.

        ``probes``: the number of lists to read; None for all, or if so few do not hold that many.
        """
        lists = self.lists.best(query_R, probes) if self.lists is not None and probes is not None else None
        found = []
        for segment, mask, scanned in zip(self.segments, allowed, self._scanned(query_R, lists), strict=True):
            if mask is segment.alive and segment.living == len(segment):
                found.append(scanned)
            else:
                kept = torch.from_numpy(mask)[scanned[0].long()]
                found.append((scanned[0][kept], scanned[1][kept]))
        joined = torch.cat([scores for _, scores in found])
        if lists is not None and len(joined) < count:
            return self.best(query_R, allowed, count)
        best = joined.topk(min(count, len(joined))).indices.sort().values
        ends = np.cumsum([len(rows) for rows, _ in found])
        parts = np.split(best.numpy(), np.searchsorted(best.numpy(), ends[:-1]))
        starts = [0, *ends[:-1].tolist()]
        return [
            np.sort(rows[torch.from_numpy(part - start)].numpy()).astype(np.int64)
            for (rows, _), part, start in zip(found, parts, starts, strict=True)
        ]

    def _scanned(self, query_R: Tensor, lists: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Return rows and approximate scores of each segment's videos, all of them or those in some lists."""
        codes = [segment.codes for segment in self.segments if segment.codes is not None]
        if lists is None:
            return [one.scan(query_R) for one in codes]
        parts = [one.inside(lists) for one in codes]
        scores = Codes.join([some for _, some in parts]).scores(query_R[None])[0]
        sizes = [len(rows) for rows, _ in parts]
        return [(rows, part) for (rows, _), part in zip(parts, torch.split(scores, sizes), strict=True)]

    def _vectors(self, chosen: list[NDArray[np.int64]]) -> Tensor:
        def vectors(gallery: Rows) -> Tensor:
            if isinstance(gallery, MeanGallery):
                return torch.nn.functional.normalize(gallery.video.float(), dim=-1)
            tensors = gallery.tensors()
            frames, mask = (
                next(x for n, x in tensors.items() if n.endswith(name)) for name in ("frames", "frame_mask")
            )
            return video_vectors(frames.float(), mask)

        return self.scores(chosen, vectors)

    def find(self, video_id: str) -> Place:
        """Return the place of a video. Raises InputError if there is none of this id."""
        for number, segment in enumerate(self.segments):
            row = segment.row(video_id)
            if row is not None:
                return number, row
        raise InputError(f"The index {self.folder} has no video {shown(video_id)}.")

    def _hits(self, chosen: list[NDArray[np.int64]], scores: Tensor, top: int, searched: Searched) -> Hits:
        starts = np.cumsum([0, *map(len, chosen)])
        hits, places = [], []
        for rank, place in enumerate(torch.sort(scores, descending=True, stable=True).indices[:top].tolist(), start=1):
            number = int(np.searchsorted(starts, place, side="right")) - 1
            table, row = self.segments[number].table, int(chosen[number][place - starts[number]])
            video_id, uri = (table[name][row].as_py() for name in ("video_id", "uri"))
            hits.append(Hit(rank, float(scores[place]), video_id, uri))
            places.append((number, row))
        return Hits(hits, searched, places)

    @classmethod
    def of(cls, folder: Path, record: IndexRecord, model: IndexModel) -> Self:
        """Open the files of a generation; warn of segments that cannot be read and leave them out.

        Raises InputError if none can be read.
        """
        loaded = (None, None) if record.basis is None else load_basis(folder / record.basis, model.model.dim)
        basis, anchors = loaded
        rank = None if basis is None else basis.directions.shape[1]
        lists = None if record.lists is None or rank is None else load_lists(folder / record.lists, rank)
        segments, missing, form = [], 0, model.check_format(record.format, folder)
        reason: InputError | None = None
        for files in record.segments:
            try:
                segments.append(Segment(folder, files, form, rank, None if lists is None else len(lists)))
            except InputError as error:
                missing, reason = missing + files.videos - files.deleted, error
                if len(record.segments) > 1:
                    warn(f"{error} Its {files.videos} videos are not searched.")
        if reason is not None and not segments:
            raise reason
        for segment in segments:
            if segment.lost_media is not None:
                warn(f"{segment.lost_media} Its videos are searched, but not shown.")
        return cls(folder, record, model, segments, missing, basis, anchors, lists)

    @classmethod
    def whole(cls, folder: Path, record: IndexRecord, model: IndexModel) -> Self:
        """Open all segments of an index for a change. Raises InputError if a part cannot be read."""
        opened = cls.of(folder, record, model)
        if opened.missing or any(segment.lost_media for segment in opened.segments):
            raise InputError(f"A part of the index {folder} cannot be read, so it cannot be changed. Make it again.")
        return opened
