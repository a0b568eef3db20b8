"""Settings that may change between a run and its resume: places, workers, devices, logging."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import field_validator

from gare.common.nodes import ROLE, wrong
from gare.config.base import Section, key


class RuntimeConfig(Section):
    """Settings outside the experiment, though numbers can differ in their last bits.

    Workers, threads, batches of evaluation and the device change the order of sums, and so the rounding; ``device``
    also changes what psi's dropout draws: a GPU draws other masks than a CPU.
    """

    root: str | None = key(None, "folder that relative paths start from; the current one when null")
    name: str | None = key(None, "name of the run; the experiment's digest when null")
    shards: str | None = key(None, "folder made by gare prepare")
    cache: str | None = key(
        None, "folder on each node for copies of shards; GARE_CACHE, else gare in the user's cache folder, when null"
    )
    cache_gb: float | None = key(
        None,
        "most that copies of shards may take on a node; what the disk has, a tenth kept free, when null",
        unit="GB",
        gt=0,
    )
    cache_mounted: bool = key(False, "copy shards of a folder too, not only of an address; for network file systems")
    cache_threads: int = key(8, "shards copied to a node at once", ge=1, le=64)
    output: str = key("runs", "folder that holds a folder per run")
    storage: str | None = key(
        None,
        "folder or address (s3://...) that runs are copied to and go on from; for an output not all nodes share",
    )
    workers: int | list[int] = key(
        1, "Ray Train workers, one per device; [fewest, most] takes as many as fit the cluster when it starts"
    )
    cpu_threads: int = key(1, "torch threads per worker", ge=1, le=1024)
    read_ahead: int = key(2, "batches a worker makes ready before they are needed; 0 makes them in the loop", ge=0)
    read_threads: int = key(1, "threads of a worker that read frames ahead; more help where frames are JPEG", ge=1)
    cpus_per_worker: float = key(1.0, "logical CPUs a worker asks Ray for", gt=0)
    device: Literal["auto", "cpu", "cuda"] = key("auto", "cuda where there is one, when auto")
    max_failures: int = key(2, "times Ray Train restarts the workers after a failure", ge=0)
    checkpoint_every_steps: int | None = key(
        None, "steps between checkpoints inside an epoch; only at each epoch's end when null", unit="steps", ge=1
    )
    keep_best: int = key(1, "checkpoints kept that were best on dev; the last one is kept too", ge=1)
    decode_workers: int | None = key(None, "decode processes of gare prepare; all CPUs when null", ge=1)
    index_workers: int | None = key(
        None, "actors of gare index; all that fit the cluster, one per GPU where it has any, when null", ge=1
    )
    decode_on: dict[str, str] | None = key(
        None,
        "labels of the nodes that decode: value, !value, in(a,b) or !in(a,b) by label; any node when {}; when null, "
        f"not those labelled {ROLE}=train, nor those with GPUs that have no such label, in a cluster of several",
    )
    train_on: dict[str, str] | None = key(
        None,
        f"labels of the nodes of ranks, trials and actors of gare index, in the same way; not {ROLE}=decode when null",
    )
    close_by: str | None = key(
        "ray.io/availability-zone",
        "label whose value the ranks of a run share, where nodes differ in it and those of one value hold them all",
    )
    wait_for_nodes: float = key(
        0.0, "how long training waits for an autoscaler to bring what its workers need", unit="s", ge=0
    )
    log_every: int = key(10, "steps between recorded training metrics", unit="steps", ge=1)
    diagnose_every: int | None = key(
        None, "steps between measurements and pictures of the increments; never when null", unit="steps", ge=1
    )
    eval_batch: int = key(64, "videos or texts encoded at once in evaluation", ge=1)
    score_rows: int = key(16, "texts scored at once where increments do not factorise (model.query residual...)", ge=1)
    tracking: bool = key(True, "record runs in MLflow")
    tracking_uri: str | None = key(
        None, "MLflow store; MLFLOW_TRACKING_URI, else a SQLite file in the output folder, when null"
    )
    experiment: str = key("gare", "name of the MLflow experiment")
    system_metrics: float | None = key(
        10.0, "time between samples of what the training machines do, for MLflow; none when null", unit="s", gt=0
    )
    checkpoint_artifact_mb: float = key(
        100.0,
        "largest best checkpoint that MLflow gets a copy of; of a larger one it gets the folder's path",
        unit="MB",
        ge=0,
    )

    @property
    def fewest_workers(self) -> int:
        """Return the smallest allowed worker count."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Return the largest allowed worker count."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    def worker_counts(self, global_batch: int) -> list[int]:
        """Return the allowed worker counts that share ``global_batch`` evenly, most first."""
        counts = range(self.most_workers, self.fewest_workers - 1, -1)
        return [count for count in counts if global_batch % count == 0]

    @field_validator("workers", mode="before")
    @classmethod
    def _is_count_or_range(cls, workers: Any) -> Any:
        ends = workers if isinstance(workers, list | tuple) and len(workers) == 2 else [workers, workers]
        if not all(type(end) is int for end in ends) or not 1 <= ends[0] <= ends[1]:
            raise ValueError("it is a number of workers from 1 up, or a range [fewest, most] of them")
        return workers

    @field_validator("decode_on", "train_on", "close_by")
    @classmethod
    def _names_labels(cls, given: Any) -> Any:
        found = wrong({given: "any"} if isinstance(given, str) else given or {})
        if found is not None:
            raise ValueError(found)
        return given

    @field_validator("cache")
    @classmethod
    def _is_of_each_node(cls, cache: str | None) -> str | None:
        if cache is not None and not cache.startswith(("/", "~")):
            raise ValueError("it is a folder of each node's own disk, so an absolute path, or one that starts with ~")
        return cache

    @field_validator("name")
    @classmethod
    def _stays_in_output(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip("./") or name.startswith("/") or ".." in PurePosixPath(name).parts):
            raise ValueError("a run is a folder inside runtime.output, so its name cannot lead out of it")
        return name
