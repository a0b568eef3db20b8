"""Decode clips of a video: by plan if it is certain which frames there are, otherwise every frame in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from gare.config.prepare import PrepareConfig
from pipelines.decode.backends import backend
from pipelines.decode.clip_job import Clip, ClipJob, DecodedVideo
from pipelines.decode.errors import Budget, DecodeError
from pipelines.decode.in_order import Sequential, in_order
from pipelines.decode.listed import list_packets
from pipelines.decode.planned import Planned, Read, read_packets
from pipelines.decode.track import check_file

KEEP_BYTES: Final = 64 * 2**20
TOGETHER_BYTES: Final = 64 * 2**20
"""Most bytes of stored pictures made in one go; later clips are decoded once you have taken these."""


def decode_video(
    path: str | Path, *, recipe: PrepareConfig, start_s: float | None = None, end_s: float | None = None
) -> DecodedVideo:
    """Decode the frames of a local file that ``recipe`` keeps, within ``start_s <= t < end_s``.

    Raises DecodeError with a kind of ``KINDS``, and MemoryError for lack of memory or if a damaged file asks for
    absurd amounts of it. Only the file's packets are trusted.
    """
    (result,) = decode_clips(path, recipe=recipe, clips=[Clip(start_s, end_s)])
    if isinstance(result, DecodeError):
        raise result
    return result


def decode_clips(
    path: str | Path, *, recipe: PrepareConfig, clips: Sequence[Clip]
) -> Iterator[DecodedVideo | DecodeError]:
    """Decode many clips of one file, in the order given: each as ``decode_video`` does, or the error it raises.

    The file is opened and its packets are read once; clips that overlap or follow one another share the decoding, so
    clips in order of time cost least. A group of clips is decoded ahead, within about ``TOGETHER_BYTES`` of pictures.
    No result depends on the other clips unless one runs out of time: ``limits.cpu_seconds`` restarts for each group,
    for each clip that has to be decoded alone, and whenever a file has to be read or decoded in order after all.
    Overlapping results may share arrays of frames. Raises MemoryError as ``decode_video`` does.
    """
    given = 0
    job = ClipJob(Path(path), recipe, None, None, Budget(recipe.limits.cpu_seconds))
    try:
        for result in _decode(job, [job.of(clip) for clip in clips]):
            given += 1
            yield result
    except DecodeError as error:
        for _ in range(given, len(clips)):
            yield error.again()


def decode_in_order(
    path: str | Path, *, recipe: PrepareConfig, start_s: float | None = None, end_s: float | None = None
) -> DecodedVideo:
    """Decode as ``decode_video`` does but without the plan, every frame in order: the plain version for comparison."""
    job = ClipJob(Path(path), recipe, start_s, end_s, Budget(recipe.limits.cpu_seconds))
    check_file(job.path, job.limits)
    return in_order(job)


def _decode(job: ClipJob, jobs: Sequence[ClipJob]) -> Iterator[DecodedVideo | DecodeError]:
    size = check_file(job.path, job.limits)
    groups = list(_together(jobs))
    sequential: Sequential | None = None
    with ExitStack() as opened, ExitStack() as read_again:
        listed = _listed(job, opened)
        planned = listed or _read_through(job, opened, size)
        for number, group in enumerate(groups):
            results = planned.decode(group)
            if planned is listed and len(results) < len(group):  # something in the index is not as it seemed
                planned.close()
                job.budget.start_again()
                planned = _read_through(job, opened, size)
                results = planned.decode(group)
            later = groups[number + 1] if number + 1 < len(groups) else []
            left = [place for place in range(len(group)) if place not in results]
            if left:
                guess = planned.guess(group) if sequential is None else None
                if not later or not planned.trusted:
                    planned.close()
                if sequential is None:
                    sequential = Sequential(job, guess)
                    read_again.callback(sequential.close)
                if len(jobs) > 1:
                    job.budget.start_again()
                made = sequential.decode([group[place] for place in left], later)
                results |= dict(zip(left, (_noted(one, planned.elsewhere) for one in made), strict=True))
            yield from (results[place] for place in range(len(group)))
            job.budget.start_again()


def _listed(job: ClipJob, opened: ExitStack) -> Planned | None:
    """Open the file and plan from its index; None if only reading it through tells its packets."""
    track = opened.enter_context(job.open())
    packets = list_packets(job, track)
    if packets is None:
        return None
    return backend(job.recipe.decoder)(job, track, Read(packets, None, trusted=True), opened)


def _read_through(job: ClipJob, opened: ExitStack, size: int) -> Planned:
    """Open the file, of ``size`` bytes, and plan from all of its packets."""
    if job.track.begun:
        opened.close()
        opened.enter_context(job.open())
    return backend(job.recipe.decoder)(job, job.track, read_packets(job, job.track, keep=size <= KEEP_BYTES), opened)


def _noted(made: DecodedVideo | DecodeError, notes: Sequence[str]) -> DecodedVideo | DecodeError:
    return made if isinstance(made, DecodeError) or not notes else replace(made, notes=[*made.notes, *notes])


def _together(jobs: Sequence[ClipJob]) -> Iterator[Sequence[ClipJob]]:
    """Cut jobs into groups of at least one whose pictures fit into TOGETHER_BYTES."""
    if not jobs:
        return
    recipe = jobs[0].recipe
    shape = recipe.crop or recipe.short_side
    bytes_each = 3 * shape * shape * recipe.max_frames * (1 if recipe.crop else 2)
    count = max(1, TOGETHER_BYTES // bytes_each)
    for start in range(0, len(jobs), count):
        yield jobs[start : start + count]
