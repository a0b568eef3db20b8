"""Ray Train on many logical nodes with steps that sleep; no torch in its workers."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from gare.common.files import write_json


def _rank(settings: dict[str, Any]) -> None:
    """What a rank does: as gare's training, it reports the epoch's rows, without a checkpoint of Ray's."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    epochs = []
    for epoch in range(settings["epochs"]):
        start = time.time()
        for _ in range(settings["steps"]):
            time.sleep(settings["step_s"])
        stepped = time.time()
        rows = [{"step": step, "loss": 1.0, "samples_per_s": 1.0} for step in range(settings["steps"])]
        ray.train.report({"epoch": epoch, "history": rows})
        epochs.append({"start": start, "stepped": stepped, "reported": time.time()})
    write_json(Path(settings["folder"]) / f"{rank}.json", epochs)


def fake_run(ranks: int, epochs: int, steps: int, step_s: float) -> dict[str, float]:
    """A run of so many one-CPU ranks, with Ray initialised: its start, the cost of its reports, its efficiency."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    with tempfile.TemporaryDirectory() as folder:
        settings = {"epochs": epochs, "steps": steps, "step_s": step_s, "folder": folder}
        began = time.time()
        DataParallelTrainer(
            _rank,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=ranks, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name="fake", storage_path=f"{folder}/ray", failure_config=FailureConfig(max_failures=0)
            ),
        ).fit()
        ended = time.time()
        all_ranks = [json.loads((Path(folder) / f"{rank}.json").read_text("utf-8")) for rank in range(ranks)]
    started = [epochs_of[0]["start"] for epochs_of in all_ranks]
    # A rank that is there first waits for the others in its first report, which is start-up too.
    late = [max(one["stepped"] for one in of_epoch) for of_epoch in zip(*all_ranks, strict=True)]
    reports = [
        max(one["reported"] for one in of_epoch) - stepped
        for of_epoch, stepped in zip(zip(*all_ranks, strict=True), late, strict=True)
    ]
    finished = max(epochs_of[-1]["reported"] for epochs_of in all_ranks)
    return {
        "start_s": max(started) - began,
        "apart_s": max(started) - min(started),
        "report_s": statistics.median(reports),
        "efficiency": epochs * steps * step_s / (finished - max(started)),
        "end_s": ended - finished,
    }
