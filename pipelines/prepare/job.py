"""The data job: process every unfinished unit, then write the dataset manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gare.common.console import warn
from gare.common.errors import InputError, RunError
from gare.common.locks import held
from gare.common.nodes import Selector
from gare.common.storage import Folder
from gare.config import PrepareConfig
from gare.schema import DATASET_FILE, LEDGER_FOLDER
from pipelines.dataset.layout import Output
from pipelines.dataset.ledger import dataset_manifest, remove_leftovers, remove_superseded
from pipelines.dataset.opening import take_up
from pipelines.decode.backends import missing
from pipelines.manifest.load import stream_manifest
from pipelines.prepare.local_units import run_here
from pipelines.prepare.nodes import check_somewhere
from pipelines.prepare.process_unit import process_unit
from pipelines.prepare.ray_units import Work, run_units
from pipelines.prepare.unit_tasks import OnChange, UnitTask, tasks


@dataclass(frozen=True)
class Progress:
    """Progress of the job: videos settled out of all, and how many of this run's failed."""

    done: int
    total: int
    failed: int


@dataclass(frozen=True)
class PrepareReport:
    """Contents of the output folder, and the work of this run.

    ``totals``: as in the dataset manifest (rows, ok, filtered, failed, notes, frames, bytes); ``videos``: settled by
    this run; ``units_skipped``: finished earlier.
    """

    out: Folder
    totals: dict[str, Any]
    splits: dict[str, dict[str, int]]
    videos: int
    units_skipped: int
    seconds: float

    @property
    def videos_per_s(self) -> float:
        """Videos this run settled per second of wall time."""
        return self.videos / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class PrepareJob:
    """A checked manifest and an output folder held by this process, with the remaining work.

    ``rows``: rows of the manifest; ``added``: how many of them are new since the folder was made; ``rows_todo``: videos
    to decode; ``again``: how many of those were settled before.
    """

    output: Output
    rows: int
    added: int
    todo: list[UnitTask]

    @property
    def rows_todo(self) -> int:
        """Number of videos to decode."""
        return sum(task.videos for task in self.todo)

    @property
    def again(self) -> int:
        """Number of videos to decode that were settled before."""
        return sum(task.videos for task in self.todo if task.again is not None or task.damage)


@contextmanager
def open_job(
    manifest: str | Path,
    out: str | Path,
    config: PrepareConfig,
    *,
    retry_failed: bool = False,
    changed: OnChange = "refuse",
) -> Iterator[PrepareJob]:
    """Check the manifest, start or continue ``out`` and hold it during the block, without Ray.

    ``retry_failed``: decode failed videos again; ``changed``: how to handle videos whose source changed. Raises
    InputError if the manifest or folder cannot be used, RunError if another process is at work there.
    """
    cannot = missing(config.decoder)
    if cannot is not None:
        raise InputError(cannot)
    tables = stream_manifest(manifest)
    first = list(islice(tables, 2))  # checks a short manifest before making a folder
    place = Folder.at(out)
    try:
        with held(place):
            output, kept = take_up(place, chain(first, tables), config)
            todo = tasks(output, retry_failed=retry_failed, changed=changed)
            yield PrepareJob(output, kept.rows, kept.new, todo)
    except OSError as error:
        raise InputError(f"Cannot write to {place}: {error.strerror or error}.") from None


def prepare(
    manifest: str | Path,
    out: str | Path,
    config: PrepareConfig,
    *,
    workers: int | None = None,
    decode_on: Selector | None = None,
    retry_failed: bool = False,
    changed: OnChange = "refuse",
    local: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> PrepareReport:
    """Decode a manifest's videos into shards, a ledger and a dataset manifest: ``open_job`` and ``run_job`` in one."""
    with open_job(manifest, out, config, retry_failed=retry_failed, changed=changed) as job:
        return run_job(job, workers=workers, decode_on=decode_on, on_progress=on_progress, local=local)


def run_job(
    job: PrepareJob,
    *,
    workers: int | None = None,
    decode_on: Selector | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    work: Work = process_unit,
    local: bool = False,
) -> PrepareReport:
    """Do the remaining work of a job. Ray has to be initialised if there is any, unless ``local``.

    ``workers``: decode processes at once, all CPUs if None; ``decode_on``: labels of the nodes that decode, by the rule
    of ``pipelines.prepare.nodes`` if None; ``work``: the function that a Ray task applies to a unit; ``local``: decode
    in processes on this machine; the files are the same. Raises RunError if no node may decode, the job stops or no
    video at all could be decoded.
    """
    started = time.monotonic()
    if job.todo and not local:
        check_somewhere(decode_on)  # before removing anything
    output = job.output
    whole = {task.unit for task in job.todo if task.again is None and not task.damage}
    if whole:
        remove_leftovers(output, whole)
    done, failed = job.rows - job.rows_todo, 0
    on_progress(Progress(done, job.rows, failed))
    units = run_here(output, job.todo, workers) if local else run_units(output, job.todo, workers, decode_on, work)
    kept = 0
    with closing(units):
        for counts in units:
            done, failed, kept = done + counts.videos, failed + counts.failed, kept + counts.kept
            on_progress(Progress(done, job.rows, failed))
    if kept:
        warn(f"{kept} videos that were stored before could not be decoded again; what was stored of them stays.")
    dataset = dataset_manifest(output)
    if not dataset["totals"]["ok"]:
        raise RunError(
            f"None of the {job.rows} videos could be decoded; {output.place.named(LEDGER_FOLDER)} says why for each."
        )
    output.place.write_json(DATASET_FILE, dataset)
    remove_superseded(output, {shard["file"] for shard in dataset["shards"]})
    return PrepareReport(
        output.place,
        dataset["totals"],
        dataset["splits"],
        videos=job.rows_todo,
        units_skipped=output.units() - len(job.todo),
        seconds=time.monotonic() - started,
    )
