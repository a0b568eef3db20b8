"""Evaluate the best checkpoint of every finished trial of some sweeps on the test split.

    python benchmarks/claims/measure.py SWEEP... --shards SHARDS --out claims.json

A trial's best checkpoint was chosen on dev while it trained; test is looked at here alone. Of heads with increments the
diagnostics of dev are measured too. The file holds a row per trial; trials that it has already are not measured again,
so the script may run while a sweep does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gare.common.files import write_json
from gare.config.heads import HEADS
from gare.data.shards import ShardSet
from gare.diagnostics.measures import pair_diagnostics
from gare.diagnostics.pairs import split_state
from gare.evaluation.evaluate import evaluate
from gare.model.checkpoint import load_checkpoint_config, load_model
from gare.training.numerics import numerics
from tune.record import SweepRecord, Trial

PAIRS = 64


def measured(trial: Trial, shards: ShardSet) -> dict[str, Any]:
    """Return a trial's row: its settings, what it cost, and its metrics on dev, on test, and of its increments."""
    folder = Path(str(trial.best))
    config, model = load_checkpoint_config(folder), load_model(folder)
    tokenizer = model.tokenizer
    assert tokenizer is not None
    with numerics(config):
        test = evaluate(model, tokenizer, shards.split("test"), config).metrics
        increments = {}
        if HEADS[config.model.head].increments and config.model.makes_increments:
            increments = pair_diagnostics(split_state(model, tokenizer, shards.split("dev"), config, PAIRS))
    return {
        "directory": trial.directory,
        "case": trial.case,
        "seed": config.train.seed,
        "overrides": trial.overrides,
        "epoch": folder.name,
        "train_s": trial.train_s,
        "dev": {name.removeprefix("dev/"): value for name, value in trial.metrics.items()},
        "test": test,
        "increments": increments,
    }


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="SWEEP")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else []
    known, shards = {row["directory"] for row in rows}, ShardSet(options.shards)
    for sweep in options.sweeps:
        for trial in SweepRecord.read(sweep).trials:
            if trial.status == "done" and trial.directory not in known:
                rows.append({"sweep": sweep.name} | measured(trial, shards))
                write_json(options.out, rows)
                print(trial.directory, rows[-1]["test"]["t2v/R@1"], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
