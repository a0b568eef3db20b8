"""``gare.prepare``: turn a manifest into Arrow shards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from gare.api import public
from gare.api.settings import Place, one_of, place_text, resolve
from gare.common.console import meter, note
from gare.config import Config
from gare.config.tree import Overrides, Source
from gare.jobs.places import Place as CheckedPlace
from pipelines.prepare import job as preparing
from pipelines.prepare.job import PrepareJob, PrepareReport, Progress
from pipelines.prepare.unit_tasks import OnChange

SMALL_JOB = 200
"""Videos that a machine decodes in about the time in which Ray starts and stops."""
CHANGES: tuple[OnChange, ...] = ("refuse", "redo", "ignore")


@public
def prepare(
    manifest: Place,
    out: Place,
    config: Source = None,
    *,
    retry_failed: bool = False,
    changed: OnChange = "refuse",
    local: bool | None = None,
    set: Overrides = (),
    **settings: Any,
) -> PrepareReport:
    """Decode and sample the videos of a manifest into Arrow shards, with a ledger row for every one.

    A video that cannot be decoded becomes a row of the ledger with the reason. After an interruption (Ctrl-C raises
    KeyboardInterrupt) the same call continues; rows that are new in the manifest add shards.

    Args:
        manifest: Parquet file of ``gare manifest``.
        out: folder or address of the shards and the ledger.
        config: settings; ``prepare.*``, ``runtime.decode_workers`` and ``runtime.decode_on`` apply here.
        retry_failed: decode again the videos that failed before.
        changed: how to handle videos whose source changed since: "refuse" (raise), "redo" (decode) or "ignore".
        local: decode on this machine alone, without Ray; False: with Ray. None: without where no cluster is named, no
            Ray is running in this process and at most ``SMALL_JOB`` videos are to be decoded. The files are the same.
        set: overrides by dotted key, such as ``{"prepare.max_frames": 16}``, or ``key=value`` texts.
        **settings: overrides by section, such as ``prepare={"max_frames": 16}``.

    Returns:
        Counts by outcome and split, and the time it took.

    Raises:
        ConfigError: a setting cannot be used.
        InputError: the manifest or the folder cannot be used.
        RunError: the job stopped, no video at all could be decoded, or another process is at work there.
    """
    one_of("changed", changed, CHANGES)
    own = resolve(config, set, settings)
    # Before Ray starts: a mistake is an error at once, and a finished folder needs no Ray.
    source, target = place_text("manifest", manifest), place_text("out", out)
    opened = preparing.open_job(source, target, own.prepare, retry_failed=retry_failed, changed=changed)
    with opened as job:
        if job.added and job.added < job.rows:
            note(f"{job.added} of {job.rows} videos are new in the manifest; they add shards to those that are there.")
        if job.again:
            note(f"{job.again} videos are decoded again.")
        session: Any = nullcontext()
        alone = needs_no_ray(job, own) if local is None else local
        if job.todo and not alone:
            from gare.launch.ray_session import ray_session

            session = ray_session(own.runtime, places=_places(job, target))
        with session, meter("videos", job.rows, start=job.rows - job.rows_todo) as progress:

            def show(state: Progress) -> None:
                progress.update(state.done, f"{state.failed} failed")

            workers, decode_on = own.runtime.decode_workers, own.runtime.decode_on
            return preparing.run_job(job, workers=workers, decode_on=decode_on, on_progress=show, local=alone)


def needs_no_ray(job: PrepareJob, config: Config) -> bool:
    """Return True if a job is done sooner than Ray would start, and no cluster is there to do it."""
    ray = sys.modules.get("ray")
    joined = bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and ray.is_initialized())
    return not joined and config.runtime.decode_on is None and job.rows_todo <= SMALL_JOB


def _places(job: PrepareJob, out: str) -> Iterator[CheckedPlace]:
    """Yield the output folder, and a few videos to decode: the first and last of the first and last unit."""
    yield CheckedPlace("--out", out, "output")
    for unit in dict.fromkeys((job.todo[0].unit, job.todo[-1].unit)):
        uris = job.output.batch(unit)["uri"]
        for uri in (uris[0].as_py(), uris[-1].as_py()):
            yield CheckedPlace("a video of the manifest", uri, "input")
