"""The Ray Data job: every unit that is not finished yet, then the dataset manifest."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gare.common.errors import InputError, RunError
from gare.common.files import digest_of, only_one, write_json
from gare.config import PrepareConfig
from gare.schema import DATASET_FILE, LEDGER_FOLDER, SCHEMA_VERSION
from pipelines.manifest import load_manifest
from pipelines.units import Output, open_output, read_ledger, remove_leftovers
from pipelines.work import UnitCounts, process_unit

MAX_BLOCKS = 4096  # a task's units; more blocks than this cost more to schedule than they spread
AGAIN = "The same command goes on where it stopped."


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

    out: Path
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
class Job:
    """A checked manifest and output folder, and the units that are still to do."""

    output: Output
    rows: int
    todo: list[int]
    rows_todo: int


def open_job(manifest: Path, out: Path, config: PrepareConfig) -> Job:
    """Check the manifest and start or take up ``out``, without Ray; InputError where either cannot be used."""
    table = load_manifest(manifest)
    try:
        with only_one(out):
            output = open_output(out.absolute(), table, config)
    except OSError as error:
        raise InputError(f"Cannot write to {out}: {error.strerror or error}.") from None
    todo = [unit for unit in range(output.units()) if read_ledger(output, unit) is None]
    return Job(output, table.num_rows, todo, sum(len(output.rows(unit)) for unit in todo))


def prepare(
    manifest: Path,
    out: Path,
    config: PrepareConfig,
    *,
    workers: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> PrepareReport:
    """Decode a manifest's videos into shards, a ledger and a dataset manifest under ``out``, with Ray initialised.

    ``workers``: decode processes at once, all CPUs when None. A rerun skips the finished units. Raises InputError
    for a manifest or folder that cannot be used, RunError when the job stops or no video at all could be decoded.
    """
    return run_job(open_job(manifest, out, config), workers=workers, on_progress=on_progress)


def run_job(
    job: Job, *, workers: int | None = None, on_progress: Callable[[Progress], None] = lambda _: None
) -> PrepareReport:
    """Do what is left of a job; Ray is needed only where anything is. RunError when another process is at it."""
    with only_one(job.output.folder):
        return _run_job(job, workers, on_progress)


def _run_job(job: Job, workers: int | None, on_progress: Callable[[Progress], None]) -> PrepareReport:
    started = time.monotonic()
    output = job.output
    todo = [unit for unit in job.todo if read_ledger(output, unit) is None]  # another process may have been here
    job = replace(job, todo=todo, rows_todo=sum(len(output.rows(unit)) for unit in todo))
    if job.todo:
        (output.folder / DATASET_FILE).unlink(missing_ok=True)
        remove_leftovers(output, job.todo)
    done, failed = job.rows - job.rows_todo, 0
    on_progress(Progress(done, job.rows, failed))
    for counts in _run(output, job.todo, workers):
        done, failed = done + counts.videos, failed + counts.failed
        on_progress(Progress(done, job.rows, failed))
    dataset = dataset_manifest(output)
    if not dataset["totals"]["ok"]:
        ledger = output.folder / LEDGER_FOLDER
        raise RunError(f"None of the {job.rows} videos could be decoded; {ledger} says why for each.")
    write_json(output.folder / DATASET_FILE, dataset)
    return PrepareReport(
        output.folder,
        dataset["totals"],
        dataset["splits"],
        videos=job.rows_todo,
        units_skipped=output.units() - len(job.todo),
        seconds=time.monotonic() - started,
    )


def _run(output: Output, units: list[int], workers: int | None) -> Iterator[UnitCounts]:
    """Process units in Ray Data tasks; yields as they finish, in any order. Only counts come back."""
    if not units:
        return
    import ray.data
    from ray.exceptions import RayError

    with _quiet_data_context():
        dataset = ray.data.from_items(
            [{"unit": unit} for unit in units], override_num_blocks=min(len(units), MAX_BLOCKS)
        ).map_batches(
            _task,
            batch_size=1,
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(size=workers),
            fn_kwargs={"output": output},
        )
        try:
            for row in dataset.iter_rows():
                if row["error"]:
                    raise RunError(f"Unit {row['unit']} could not be written: {row['error']}. {AGAIN}")
                yield UnitCounts(int(row["unit"]), int(row["videos"]), int(row["failed"]))
        except RayError as error:
            first = str(error).strip().splitlines()[0]
            raise RunError(f"The data job stopped: {first}. {AGAIN}") from error


def _task(batch: dict[str, Any], output: Output) -> dict[str, Any]:
    """Process the units of a batch; an error comes back as a sentence, which Ray would bury in a traceback."""
    counts = []
    for unit in batch["unit"]:
        try:
            counts.append({**asdict(process_unit(output, int(unit))), "error": ""})
        except Exception as error:  # noqa: BLE001 - raised again by the driver
            counts.append({"unit": int(unit), "videos": 0, "failed": 0, "error": f"{type(error).__name__}: {error}"})
    return {name: [count[name] for count in counts] for name in ("unit", "videos", "failed", "error")}


@contextmanager
def _quiet_data_context() -> Iterator[None]:
    """Keep Ray Data's own bars and banners out of ours, and pickled object columns out of its blocks."""
    from ray.data import DataContext

    logger = logging.getLogger("ray.data")
    level = logger.level
    context = DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "enable_fallback_to_arrow_object_ext_type": False,
    }
    before = {name: getattr(context, name) for name in wanted}
    try:
        logger.setLevel(logging.CRITICAL)  # errors reach the user as a RunError
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


def dataset_manifest(output: Output) -> dict[str, Any]:
    """Make the dataset manifest from the ledger parts alone: the same for any number of workers and reruns.

    Raises RunError naming a unit that is not finished.
    """
    outcomes: dict[str, Counter[str]] = {"filtered": Counter(), "failed": Counter()}
    splits: dict[str, dict[str, int]] = {}
    shards, rows, ok, frames, notes = [], 0, 0, 0, Counter[str]()
    for unit in range(output.units()):
        finished = read_ledger(output, unit)
        if finished is None:
            raise RunError(f"Unit {unit} of {output.folder} was not finished; run the same command again.")
        shards.extend(finished[1])
        for entry, row in zip(finished[0], output.rows(unit), strict=True):
            rows += 1
            if entry["status"] != "ok":
                outcomes[entry["status"]][entry["reason"]] += 1
                continue
            ok, frames = ok + 1, frames + entry["frames"]
            notes.update(entry["notes"])
            split = splits.setdefault(row["split"], {"videos": 0, "captions": 0})
            split["videos"] += 1
            split["captions"] += len(row["captions"])
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": output.recipe.model_dump(mode="json"),
        "recipe_digest": output.digest,
        "manifest_sha256": output.manifest_sha256,
        "digest": digest_of({"recipe": output.digest, "shards": [shard.sha256 for shard in shards]}),
        "shards": [asdict(shard) for shard in shards],
        "totals": {
            "rows": rows,
            "ok": ok,
            **{status: dict(sorted(counts.items())) for status, counts in outcomes.items()},
            "notes": dict(sorted(notes.items())),
            "frames": frames,
            "bytes": sum(shard.bytes for shard in shards),
        },
        "splits": dict(sorted(splits.items())),
    }
