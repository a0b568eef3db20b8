"""The Ray Data job: every unit that is not finished yet, then the dataset manifest."""

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
from pipelines.dataset import Output, remove_leftovers, remove_superseded, take_up
from pipelines.dataset.ledger import dataset_manifest
from pipelines.decode.backends import missing
from pipelines.manifest.load import stream_manifest
from pipelines.prepare.local_units import run_here
from pipelines.prepare.nodes import check_somewhere
from pipelines.prepare.process_unit import process_unit
from pipelines.prepare.ray_units import Work, run_units
from pipelines.prepare.unit_tasks import OnChange, UnitTask, tasks


@dataclass(frozen=True)
class Progress:
    """How far the job is: videos settled out of all, and how many of this run's failed."""

    done: int
    total: int
    failed: int


@dataclass(frozen=True)
class PrepareReport:
    """What the output folder holds and what this run did.

    ``totals``: as in the dataset manifest (rows, ok, filtered, failed, notes, frames, bytes); ``videos``: settled by
    this run; ``units_skipped``: finished before it.
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
    """A checked manifest and output folder, held by this process, and what is to do there.

    ``rows``: of the manifest; ``added``: those of them that are new since the folder was made; ``rows_todo``: videos to
    decode; ``again``: those of them that were settled before.
    """

    output: Output
    rows: int
    added: int
    todo: list[UnitTask]

    @property
    def rows_todo(self) -> int:
        """Videos to decode."""
        return sum(task.videos for task in self.todo)

    @property
    def again(self) -> int:
        """Those of them that were settled before."""
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
    """Check the manifest, start or take up ``out`` and hold it while the block runs, without Ray.

    ``retry_failed``: videos that failed are done again; ``changed``: what becomes of those whose source was changed.
    Raises InputError where manifest or folder cannot be used, RunError when another process is at work there.
    """
    cannot = missing(config.decoder)
    if cannot is not None:
        raise InputError(cannot)
    tables = stream_manifest(manifest)
    first = list(islice(tables, 2))  # what is wrong with a short manifest is known before a folder is made
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
    """Decode a manifest's videos into shards, a ledger and a dataset manifest under ``out``.

    Ray has to be initialised unless ``local``, which decodes in processes of this machine; the files are the same.

    ``out``: a folder, or an address of storage that pyarrow opens; ``workers``: decode processes at once, all CPUs
    when None; ``decode_on``: labels of the nodes that decode, by the rule of ``pipelines.prepare.nodes`` when None. A
    rerun does what is not done; rows that are new in the manifest add shards. Otherwise as ``open_job``.
    Raises InputError for a manifest or folder that cannot be used, RunError when no node may decode, the job stops or
    no video at all could be decoded.
    """
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
    """Do what is left of a job; Ray is needed only where anything is, and not where it is done ``local``.

    ``work``: what a task of Ray does with a unit.
    """
    started = time.monotonic()
    if job.todo and not local:
        check_somewhere(decode_on)  # before anything is removed
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
