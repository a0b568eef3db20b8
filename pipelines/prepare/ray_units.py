"""Run work units as Ray Data tasks on the nodes that decode."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from gare.common.errors import GareError, RunError
from gare.common.nodes import Selector
from gare.common.ray_data import kept_to, quiet
from gare.common.redact import first_line
from pipelines.dataset import Output
from pipelines.prepare.attempts import UnitCounts
from pipelines.prepare.nodes import lacking, selector_now, slots, telling
from pipelines.prepare.unit_tasks import UnitTask

Work = Callable[..., UnitCounts]
"""The function a task applies to a unit: ``pipelines.prepare.process_unit.process_unit``, or a stand-in for it."""

COUNTS = tuple(field.name for field in fields(UnitCounts))
PORTION = 1024  # minimum units per execution: Ray Data keeps some KB in the driver for each until an execution ends
PER_SLOT = 64  # and per slot: slots are idle at the end of an execution, for about half a unit each
AGAIN = "The same command continues where it stopped."


def run_units(
    output: Output, todo: list[UnitTask], workers: int | None, decode_on: Selector | None, work: Work
) -> Generator[UnitCounts]:
    """Process units in Ray Data tasks and yield counts as they finish, in any order. Only counts come back.

    The input of the next portion is prepared during the current one; it takes a millisecond per unit.
    """
    if not todo:
        return
    with quiet(), telling(partial(lacking, decode_on)):
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
    """Yield the executions with their numbers of units, for the nodes that are up then: nodes come and go."""
    import ray.data

    start = 0
    while start < len(todo):
        nodes = selector_now(decode_on)
        size = max(PORTION, PER_SLOT * (workers or slots(nodes)))
        items = [
            {"unit": task.unit, "again": json.dumps(task.again), "repair": bool(task.damage)}
            for task in todo[start : start + size]
        ]
        start += size
        with kept_to(nodes):
            dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _task,
                batch_size=1,
                num_cpus=1,
                compute=ray.data.TaskPoolStrategy(size=workers),
                fn_kwargs={"output": output, "work": work},
            )
        yield len(items), dataset


def _counts(dataset: Any) -> Iterator[UnitCounts]:
    """Yield the counts of an execution's units. Raises RunError if one could not be finished, or Ray failed."""
    from ray.exceptions import RayError

    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise RunError(f"Unit {row['unit']} could not be finished: {row['error'].rstrip('.')}. {AGAIN}")
            yield UnitCounts(*(int(row[name]) for name in COUNTS))
    except RayError as error:
        raise RunError(f"The data job stopped: {first_line(error)}. {AGAIN}") from error


def _task(batch: dict[str, Any], output: Output, work: Work) -> dict[str, Any]:
    """Process the units of a batch; return an error as a sentence, which Ray would bury in a traceback."""
    counts = []
    for unit, again, repair in zip(batch["unit"], batch["again"], batch["repair"], strict=True):
        more = {"repair": True} if repair else {}
        try:
            counts.append({**asdict(work(output, int(unit), again=json.loads(again), **more)), "error": ""})
        except Exception as error:  # noqa: BLE001 - raised again by the driver
            reason = str(error) if isinstance(error, GareError) else f"{type(error).__name__}: {error}"
            counts.append({**dict.fromkeys(COUNTS, 0), "unit": int(unit), "error": reason})
    return {name: [count[name] for count in counts] for name in (*COUNTS, "error")}
