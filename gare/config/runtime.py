"""Settings that may change between a run and its resume: places, workers, devices, logging."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from pydantic import field_validator

from gare.config.base import Section, key


class RuntimeConfig(Section):
    """Nothing here changes what is computed."""

    root: str | None = key(None, "folder that relative paths start from; the current one when null")
    name: str | None = key(None, "name of the run; the experiment's digest when null")
    shards: str | None = key(None, "folder made by gare prepare")
    output: str = key("runs", "folder that holds a folder per run")
    workers: int = key(1, "Ray Train workers, one per device", ge=1)
    cpu_threads: int = key(1, "torch threads per worker", ge=1, le=1024)
    cpus_per_worker: float = key(1.0, "logical CPUs a worker asks Ray for", gt=0)
    device: Literal["auto", "cpu", "cuda"] = key("auto", "cuda where there is one, when auto")
    max_failures: int = key(2, "times Ray Train restarts the workers after a failure", ge=0)
    decode_workers: int | None = key(None, "decode processes of gare prepare; all CPUs when null", ge=1)
    log_every: int = key(10, "steps between recorded training metrics", unit="steps", ge=1)
    eval_batch: int = key(64, "videos or texts encoded at once in evaluation", ge=1)
    score_rows: int = key(16, "texts scored at once where increments do not factorise (model.query residual...)", ge=1)
    tracking: bool = key(True, "record runs in MLflow")
    tracking_uri: str | None = key(
        None, "MLflow store; MLFLOW_TRACKING_URI, else a SQLite file in the output folder, when null"
    )
    experiment: str = key("gare", "name of the MLflow experiment")

    @field_validator("name")
    @classmethod
    def _stays_in_output(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip("./") or name.startswith("/") or ".." in PurePosixPath(name).parts):
            raise ValueError("a run is a folder inside runtime.output, so its name cannot lead out of it")
        return name
