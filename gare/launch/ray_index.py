"""Do the tasks of an index in actors of Ray Data, each of which opens model and shards once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gare.common.errors import ConfigError, GareError, RunError
from gare.common.ray_data import kept_to, quiet
from gare.common.redact import first_line
from gare.common.storage import is_address
from gare.config import Config
from gare.data.cache import Cache
from gare.data.shards import ShardSet
from gare.launch.placement import actors_that_fit, rank_selector
from gare.retrieval.model import IndexModel
from gare.retrieval.units import Change, Code, Encode, Run, Task, Worker
from gare.runs.inputs import choose_device
from gare.training.numerics import set_numerics

MOST_ITEMS = 4096
"""Most items of an execution: Ray Data keeps some KB in the driver for each. More tasks share items."""

AGAIN = "The same command continues where it stopped."
KINDS = {"Encode": Encode, "Code": Code}


@dataclass(frozen=True)
class Source:
    """What an actor opens: a model by its name, with its settings and the digest of its weights, and shards."""

    name: str
    clip: bool
    config: Config
    weights: str
    shards: str

    @classmethod
    def of(cls, model: IndexModel, shards: str) -> Source:
        """Describe an open model and its shards, for processes that may start in other folders."""
        place = shards if is_address(shards) else str(Path(shards).absolute())
        return cls(model.name, model.clip, model.config, model.weights, place)

    def worker(self, change: Change) -> Worker:
        """Open model and shards, and set this process's numerics. Raises ConfigError if the weights are other ones."""
        set_numerics(self.config)
        model = IndexModel.load(self.name, self.config, clip=self.clip)
        if model.weights != self.weights:
            raise ConfigError(f"The weights in {self.name} are not the same on all nodes.")
        model.model.to(choose_device(self.config.runtime.device))
        return Worker(change, model, ShardSet(self.shards, Cache.of(self.config.runtime)))


def ray_run(source: Source, change: Change) -> Run:
    """Return a function that does tasks in actors of the connected cluster, on the nodes where ranks may run.

    It raises RunError if no actor fits, a task could not be done, or Ray failed.
    """

    def run(tasks: Sequence[Task]) -> Iterator[int]:
        if not tasks:
            return
        from gare.common.ray_cluster import cluster_nodes

        runtime = source.config.runtime
        count, each = actors_that_fit(runtime, cluster_nodes(), "gare index")
        with quiet():
            with kept_to(rank_selector(runtime)):
                dataset = _dataset(source, change, tasks, min(count, len(tasks)), each)
            yield from _counts(dataset)

    return run


def _dataset(source: Source, change: Change, tasks: Sequence[Task], count: int, each: dict[str, float]) -> Any:
    import ray.data

    items = [{"tasks": json.dumps([_plain(task) for task in tasks[at::MOST_ITEMS]])} for at in range(MOST_ITEMS)]
    items = items[: len(tasks)]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=each["CPU"],
        num_gpus=each.get("GPU"),
        fn_constructor_kwargs={"source": source, "change": change},
    )


def _plain(task: Task) -> list[Any]:
    return [type(task).__name__, asdict(task)]


def _counts(dataset: Any) -> Iterator[int]:
    """Yield the number of videos of each item's tasks."""
    from ray.exceptions import RayError

    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise RunError(f"The index could not be made: {row['error'].rstrip('.')}. {AGAIN}")
            yield int(row["videos"])
    except RayError as error:
        raise RunError(f"The index could not be made: {first_line(error)}. {AGAIN}") from error


class _Actor:
    """Does the tasks of items; an error is a row, as a sentence, which Ray would bury in a traceback."""

    def __init__(self, source: Source, change: Change) -> None:
        self._source, self._change = source, change
        self._worker: Worker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the tasks of one item."""
        try:
            self._worker = self._worker or self._source.worker(self._change)
            tasks = [KINDS[kind](**values) for kind, values in json.loads(str(batch["tasks"][0]))]
            return {"videos": [sum(map(self._worker.do, tasks))], "error": [""]}
        except Exception as error:  # noqa: BLE001 - raised again by the driver
            reason = str(error) if isinstance(error, GareError) else f"{type(error).__name__}: {first_line(error)}"
            return {"videos": [0], "error": [reason]}
