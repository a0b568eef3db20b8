"""Sweeps that were never trained: records, and histories where they matter."""

from __future__ import annotations

import json

from gare.config.tree import build
from tune.record import SweepRecord, Trial

METRIC = "dev/t2v/R@1"
IB, TR, FORM = (
    "objective.information_bottleneck.weight",
    "objective.trust_region.weight",
    "objective.trust_region.form",
)
SPACE = {IB: {"loguniform": [1e-6, 1e-2]}, TR: {"grid": [0, 1e-4, 0.01]}, FORM: {"choice": ["hard", "smooth"]}}


def sweep_config(**changes):
    return build({"sweep": {"space": SPACE} | changes, "runtime": {"name": "weights"}})


def trial(number, score, status="done", *, metric=METRIC, case=None, stage="search", only=False, **overrides):
    values = overrides if only else {IB: 1e-4, TR: 0.01, FORM: "hard"} | overrides
    name = f"trial-{number:03d}"
    return Trial(
        name,
        values,
        f"/runs/weights/{name}",
        status,
        {} if score is None else {metric: score, "dev/t2v/MdR": 100 - score},
        error="RunError: it broke" if status == "failed" else None,
        seconds=12.0,
        case=case,
        stage=stage,
        train_s=9.0,
        epochs=3,
    )


def seeds(first, scores, **kwargs):
    """Trials of one setting, over seeds 0, 1, ..."""
    return [trial(first + seed, score, **kwargs, **{"train.seed": seed}) for seed, score in enumerate(scores)]


def write(folder, trials, config=None, name="weights"):
    config = config or sweep_config()
    folder.mkdir(parents=True, exist_ok=True)
    SweepRecord(name=name, key="k", config=config.model_dump(mode="json"), trials=trials).write(folder)
    return folder


def write_history(folder, name, rows):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
