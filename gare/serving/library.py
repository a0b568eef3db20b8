"""The index behind the server: searches in threads, a bounded queue, and the newest generation without a stop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from gare.common.console import note, warn
from gare.common.errors import InputError
from gare.common.files import digest_of
from gare.common.redact import redact
from gare.retrieval.folder import INDEX_FILE, read_index_file
from gare.retrieval.index import Hit, Hits, Place, SearchIndex
from gare.retrieval.moments import by_file, groups
from gare.retrieval.opening import reopen_index
from gare.retrieval.windows import with_seconds
from gare.scoring.factors import Texts
from gare.serving.answers import About, Count, Facet, Found, Moment, Picture, Results, Video
from gare.serving.facets import Facets
from gare.serving.sources import find_source

T = TypeVar("T")

LOOK_S, MOST_PAUSE_S = 1.0, 60.0
"""Seconds between two looks for a new generation, and between two attempts to open one that fails, at most."""

CLIP_OF = "source"
"""The attribute in which ``gare manifest folder --segment`` puts the id of a clip's file."""

QUEUE = 64
"""Most searches that wait."""


class BusyError(Exception):
    """Too many searches are waiting."""


@dataclass(frozen=True)
class Asked:
    """A search: a sentence, or in its place the id of a video; how many files, and which to skip; a filter."""

    query: str | None
    like: str | None
    top: int
    offset: int
    where: Mapping[str, str]
    exact: bool


class Shelf:
    """One generation of an index, opened."""

    def __init__(self, index: SearchIndex) -> None:
        self.index, self.facets = index, Facets(index)
        self.generation = index.record.generation
        self.digest = digest_of(sorted(index.record.digests.items()))[:12]

    def search(self, asked: Asked) -> Results:
        """Search. Raises InputError for a query, an id or an attribute that cannot be used."""
        start, index = time.perf_counter(), self.index
        texts = None if asked.query is None else index.encode(asked.query)

        def found(top: int) -> Hits:
            if texts is None:
                return index.like(asked.like or "", top, where=asked.where, exact=asked.exact)
            return index.search(asked.query or "", top, where=asked.where, exact=asked.exact, texts=texts)

        wanted = asked.offset + asked.top
        hits = by_file(index, found, min(wanted + 1, max(len(index), 1)))
        files = groups(hits)
        results = self._videos(hits, files[asked.offset : wanted], texts)
        about = hits.searched
        milliseconds = 1000 * (time.perf_counter() - start)
        searched = Found(
            videos=about.videos,
            scored=about.scored,
            recall=about.recall,
            unknown=about.unknown,
            partial=about.partial,
            missing=about.missing,
            text=str(about),
            milliseconds=round(milliseconds, 1),
        )
        return Results(
            results=results,
            more=len(files) > wanted,
            searched=searched,
            facets=self.counts(asked.where),
            generation=self.generation,
        )

    def counts(self, where: Mapping[str, str]) -> list[Facet]:
        """Count the values of each attribute under a filter."""
        return [
            Facet(name=of.name, values=[Count(value=v, videos=n) for v, n in of.values], more=of.more)
            for of in self.facets(where)
        ]

    def _videos(self, hits: Hits, files: list[list[int]], texts: Texts | None) -> list[Video]:
        """Describe files, each given by the numbers of its hits."""
        shown = [number for file in files for number in file]
        part = Hits([hits[number] for number in shown], hits.searched, [hits.places[number] for number in shown])
        timed = part if texts is None else with_seconds(self.index, part, texts)
        moments = dict(zip(shown, zip(timed, timed.places, strict=True), strict=True))
        return [self._video([moments[number] for number in file]) for file in files]

    def _video(self, moments: list[tuple[Hit, Place]]) -> Video:
        (best, (segment, row)), *others = moments
        opened, address = self.index.segments[segment], quote(best.video_id, safe="")
        media = opened.media_of(row, self.index.model.model.dim)
        pictures = [] if media is None else media.pictures_s
        playable, why_not = True, None
        try:
            find_source(best.uri, "" if media is None else media.codec)
        except InputError as error:
            playable, why_not = False, str(error)
        attributes = {name: value for name, value in opened.table["attributes"][row].as_py() if value is not None}
        source = attributes.get(CLIP_OF, "")
        preview = f"/api/preview/{address}?of={self.digest}&n="
        return Video(
            **self._moment(best, (segment, row)).model_dump(),
            name=source if best.video_id.startswith(f"{source}@") else best.video_id,
            uri=redact(best.uri),
            attributes=attributes,
            video=f"/api/video/{address}" if playable else None,
            why_not=why_not,
            pictures=[Picture(url=f"{preview}{n}", at_s=at) for n, at in enumerate(pictures)],
            moments=[self._moment(*other) for other in others],
        )

    def _moment(self, hit: Hit, place: Place) -> Moment:
        start_s = 0.0
        if hit.seconds is not None:
            start_s = hit.seconds[0]
        elif (media := self.index.segments[place[0]].media_of(place[1], self.index.model.model.dim)) is not None:
            start_s = media.bounds_s[0]
        return Moment(id=hit.video_id, rank=hit.rank, score=hit.score, seconds=hit.seconds, start_s=start_s)

    def picture(self, video_id: str, number: int) -> bytes:
        """Return a picture of a video. Raises InputError if there is none."""
        segment, row = self.index.find(video_id)
        media = self.index.segments[segment].media
        found = None if media is None else media.picture(row, number)
        if found is None:
            raise InputError("The index keeps no such picture.")
        return found

    def source(self, video_id: str) -> tuple[str, str]:
        """Return the source of a video, and its codec if it is known. Raises InputError if there is no such video."""
        segment, row = self.index.find(video_id)
        opened = self.index.segments[segment]
        media = opened.media_of(row, self.index.model.model.dim)
        return opened.table["uri"][row].as_py(), "" if media is None else media.codec


class Library:
    """What the routes ask: the present generation, and threads to search it."""

    def __init__(self, index: SearchIndex, *, threads: int | None = None, queue: int = QUEUE) -> None:
        """Serve an opened index with this many threads; searches beyond them wait, at most ``queue``."""
        self.shelf = Shelf(index)
        self.problem: str | None = None
        self.threads = threads or max(2, min(4, os.cpu_count() or 1))
        self.name = index.folder.resolve().name
        self._most, self._busy = self.threads + queue, 0
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="search")
        self._seen = self._tried = _stamp(index.folder)
        self._pause, self._again = LOOK_S, 0.0

    async def run(self, work: Callable[[], T]) -> T:
        """Run work in a thread. Raises BusyError if too much is waiting."""
        if self._busy >= self._most:
            raise BusyError
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._busy -= 1

    def about(self) -> About:
        """Describe the index."""
        shelf = self.shelf
        record = shelf.index.record
        return About(
            name=self.name,
            videos=len(shelf.index),
            missing=shelf.index.missing,
            generation=shelf.generation,
            model=Path(redact(shelf.index.checkpoint)).name,
            first_stage=shelf.index.basis is not None,
            previews=record.previews,
            windows=record.windows,
            facets=shelf.counts({}),
            problem=self.problem,
        )

    async def watch(self) -> None:
        """Take up new generations until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Take up the index's newest generation, if there is one; if it cannot be, keep the present one and say so."""
        present = self.shelf
        stamp = _stamp(present.index.folder)
        if stamp == self._seen or (stamp == self._tried and time.monotonic() < self._again):
            return
        try:
            self.shelf = _newest(present)
            self._seen, self.problem = stamp, None
        except Exception as error:  # noqa: BLE001 - the present generation goes on answering
            if self.problem != str(error):
                warn(f"A change of the index is not taken up: {error}")
            self.problem = str(error)
            self._pause = min(2 * self._pause, MOST_PAUSE_S) if stamp == self._tried else LOOK_S
            self._again = time.monotonic() + self._pause
        self._tried = stamp

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _newest(present: Shelf) -> Shelf:
    """Open the present generation of an index's folder. Raises InputError if it cannot be served in its place."""
    index = present.index
    record = read_index_file(index.folder)
    if record == index.record:
        return present
    if record.weights_sha256 != index.record.weights_sha256:
        raise InputError(f"The index {index.folder} is now of another model; start gare serve again.")
    newer = Shelf(reopen_index(index.folder, record, index.model))
    if newer.index.missing > index.missing:
        raise InputError(f"{newer.index.missing:,} videos of generation {newer.generation} cannot be read.")
    note(f"Generation {newer.generation} of the index is served: {len(newer.index):,} videos.")
    return newer


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    """Return what changes when an index's file is replaced; None if it is missing."""
    try:
        found = (folder / INDEX_FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
