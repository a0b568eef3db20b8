"""The Ray Data job: every unit that is not finished yet, then the dataset manifest."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from gare.common.errors import GareError, InputError, RunError
from gare.common.nodes import Selector
from gare.common.storage import Folder
from gare.config import PrepareConfig
from gare.schema import DATASET_FILE, LEDGER_FOLDER, SCHEMA_VERSION
from pipelines import data_context
from pipelines.manifest import stream_manifest
from pipelines.output import Ledger, Output, ShardFile, dataset_digest, remove_leftovers, remove_superseded, take_up
from pipelines.placing import check_somewhere, lacking, selector_now, slots, telling
from pipelines.todo import OnChange, UnitTask, tasks
from pipelines.work import UnitCounts, process_unit

COUNTED = ["status", "reason", "frames", "notes", "split"]
Work = Callable[..., UnitCounts]
PORTION = 1024  # units per execution at least: Ray Data keeps some KB in the driver for each until an execution ends
PER_SLOT = 64  # and per slot: slots stand idle at the end of an execution, for about half a unit each
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
class Job:
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
        return sum(task.videos for task in self.todo if task.again is not None)


@contextmanager
def open_job(
    manifest: str | Path,
    out: str | Path,
    config: PrepareConfig,
    *,
    retry_failed: bool = False,
    changed: OnChange = "refuse",
) -> Iterator[Job]:
    """Check the manifest, start or take up ``out`` and hold it while the block runs, without Ray.

    ``retry_failed``: videos that failed are done again; ``changed``: what becomes of those whose source was changed.
    Raises InputError where manifest or folder cannot be used, RunError when another process is at work there.
    """
    tables = stream_manifest(manifest)
    first = list(islice(tables, 2))  # what is wrong with a short manifest is known before a folder is made
    place = Folder.at(out)
    try:
        with place.held():
            output, kept = take_up(place, chain(first, tables), config)
            todo = tasks(output, retry_failed=retry_failed, changed=changed)
            yield Job(output, kept.rows, kept.new, todo)
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
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> PrepareReport:
    """Decode a manifest's videos into shards, a ledger and a dataset manifest under ``out``, with Ray initialised.

    ``out``: a folder, or an address of storage that pyarrow opens; ``workers``: decode processes at once, all CPUs
    when None; ``decode_on``: labels of the nodes that decode, by the rule of ``pipelines.placing`` when None. A rerun
    does what is not done; rows that are new in the manifest add shards. Otherwise as ``open_job``.
    Raises InputError for a manifest or folder that cannot be used, RunError when no node may decode, the job stops or
    no video at all could be decoded.
    """
    with open_job(manifest, out, config, retry_failed=retry_failed, changed=changed) as job:
        return run_job(job, workers=workers, decode_on=decode_on, on_progress=on_progress)


def run_job(
    job: Job,
    *,
    workers: int | None = None,
    decode_on: Selector | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    work: Work = process_unit,
) -> PrepareReport:
    """Do what is left of a job; Ray is needed only where anything is. ``work``: what a task does with a unit."""
    started = time.monotonic()
    if job.todo:
        check_somewhere(decode_on)  # before anything is removed
    output = job.output
    whole = {task.unit for task in job.todo if task.again is None}
    _drop_stale_dataset(output, whole)
    if whole:
        remove_leftovers(output, whole)
    done, failed = job.rows - job.rows_todo, 0
    on_progress(Progress(done, job.rows, failed))
    for counts in _run(output, job.todo, workers, decode_on, work):
        done, failed = done + counts.videos, failed + counts.failed
        on_progress(Progress(done, job.rows, failed))
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


def _drop_stale_dataset(output: Output, units: set[int]) -> None:
    """Remove a dataset manifest that names shards of units which are made anew.

    Otherwise it stays until the new one takes its place, so that what is added to a corpus disturbs no reader.
    """
    text = output.place.read_text(DATASET_FILE)
    if text is None:
        return
    try:
        named = {shard["unit"] for shard in json.loads(text)["shards"]}
    except (ValueError, KeyError, TypeError):
        named = units = {0}
    if named & units:
        output.place.remove(DATASET_FILE)


def _run(
    output: Output, todo: list[UnitTask], workers: int | None, decode_on: Selector | None, work: Work
) -> Iterator[UnitCounts]:
    """Process units in Ray Data tasks; yields as they finish, in any order. Only counts come back.

    The input of the next portion is made while this one is worked on: it takes a millisecond a unit.
    """
    if not todo:
        return
    with data_context.quiet(), telling(partial(lacking, decode_on)):
        portions = _portions(output, todo, workers, decode_on, work)
        ready = next(portions, None)
        while ready is not None:
            (units, dataset), ready = ready, None
            for done, counts in enumerate(_counts(dataset), start=1):
                yield counts
                if done == (units + 1) // 2:
                    ready = next(portions, None)


def _portions(
    output: Output, todo: list[UnitTask], workers: int | None, decode_on: Selector | None, work: Work
) -> Iterator[tuple[int, Any]]:
    """Yield the executions, each with its number of units, by the nodes that there are then: they come and go."""
    import ray.data

    start = 0
    while start < len(todo):
        nodes = selector_now(decode_on)
        size = max(PORTION, PER_SLOT * (workers or slots(nodes)))
        items = [{"unit": task.unit, "again": json.dumps(task.again)} for task in todo[start : start + size]]
        start += size
        with data_context.kept_to(nodes):
            dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _task,
                batch_size=1,
                num_cpus=1,
                compute=ray.data.TaskPoolStrategy(size=workers),
                fn_kwargs={"output": output, "work": work},
            )
        yield len(items), dataset


def _counts(dataset: Any) -> Iterator[UnitCounts]:
    """Yield what an execution's units come to. Raises RunError when one could not be finished, or Ray could not."""
    from ray.exceptions import RayError

    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise RunError(f"Unit {row['unit']} could not be finished: {row['error'].rstrip('.')}. {AGAIN}")
            yield UnitCounts(int(row["unit"]), int(row["videos"]), int(row["failed"]))
    except RayError as error:
        first = str(error).strip().splitlines()[0]
        raise RunError(f"The data job stopped: {first}. {AGAIN}") from error


def _task(batch: dict[str, Any], output: Output, work: Work) -> dict[str, Any]:
    """Process the units of a batch; an error comes back as a sentence, which Ray would bury in a traceback."""
    counts = []
    for unit, again in zip(batch["unit"], batch["again"], strict=True):
        try:
            counts.append({**asdict(work(output, int(unit), again=json.loads(again))), "error": ""})
        except Exception as error:  # noqa: BLE001 - raised again by the driver
            reason = str(error) if isinstance(error, GareError) else f"{type(error).__name__}: {error}"
            counts.append({"unit": int(unit), "videos": 0, "failed": 0, "error": reason})
    return {name: [count[name] for count in counts] for name in ("unit", "videos", "failed", "error")}


def dataset_manifest(output: Output) -> dict[str, Any]:
    """Make the dataset manifest from the ledger parts alone: the same for any number of workers and reruns.

    Raises RunError naming a unit that is not finished.
    """
    outcomes: dict[str, Counter[str]] = {"filtered": Counter(), "failed": Counter()}
    splits: dict[str, dict[str, int]] = {}
    shards: list[ShardFile] = []
    rows, ok, frames, notes = 0, 0, 0, Counter[str]()
    for unit, part in enumerate(Ledger(output).each()):
        if part is None:
            raise RunError(f"Unit {unit} of {output.place} was not finished; run the same command again.")
        shards.extend(part.shards)
        captions = pc.list_value_length(output.batch(unit).column("captions")).to_pylist()
        for entry, number in zip(part.table.select(COUNTED).to_pylist(), captions, strict=True):
            rows += 1
            if entry["status"] != "ok":
                outcomes[entry["status"]][entry["reason"]] += 1
                continue
            ok, frames = ok + 1, frames + entry["frames"]
            notes.update(entry["notes"])
            split = splits.setdefault(entry["split"], {"videos": 0, "captions": 0})
            split["videos"] += 1
            split["captions"] += number
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": output.recipe.model_dump(mode="json"),
        "recipe_digest": output.digest,
        "manifest_sha256": output.manifest_sha256,
        "digest": dataset_digest(output.digest, shards),
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
