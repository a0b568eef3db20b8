"""The files of an evaluation that other programs read: metrics.json, ranks.parquet and, if asked, the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from gare.common.files import atomic_file, write_json
from gare.data.shards import Split
from gare.retrieval.evaluation.measure import LEVEL, SEED, Measurement
from gare.retrieval.metrics.query_table import RANKS_FILE, QueryTable, write_queries

METRICS_FILE = "metrics.json"
SCORES_FILE = "scores.safetensors"


def write_results(
    folder: Path, measured: Measurement, split: Split, identity: Mapping[str, Any], *, scores: bool
) -> dict[str, Any]:
    """Write the files into an existing folder and return the content of metrics.json.

    ``identity``: what was evaluated on what; it has a ``dataset_digest``. Without ``scores`` the scores of an earlier
    evaluation are removed, since they would not belong to the rest.
    """
    values: dict[str, Any] = {
        **measured.metrics(),
        **measured.sizes(),
        **identity,
        "ties": measured.ties,
        "postprocessing": measured.postprocessing(),
        "intervals": {name: list(interval) for name, interval in measured.intervals.items()},
        "bootstrap": {"level": LEVEL, "resamples": measured.resamples, "seed": SEED, "unit": "video"},
    }
    ids = [video.video_id for video in split.videos]
    texts = measured.evaluation.texts
    queries = {name: found.queries(ids, texts) for name, found in measured.answers.items()}
    write_json(folder / METRICS_FILE, values)
    write_queries(folder / RANKS_FILE, QueryTable(split.name, identity["dataset_digest"], measured.ties, queries))
    if scores:
        write_scores(folder / SCORES_FILE, measured, ids, identity)
    else:
        (folder / SCORES_FILE).unlink(missing_ok=True)
    return values


def write_scores(path: Path, measured: Measurement, video_ids: list[str], identity: Mapping[str, Any]) -> None:
    """Write the raw ``scores`` [N, V] and ``owner`` [N] with the texts, video ids and identity as JSON metadata."""
    evaluation = measured.evaluation
    named = {"texts": evaluation.texts, "video_ids": video_ids, "identity": dict(identity)}
    metadata = {name: json.dumps(value) for name, value in named.items()}
    with atomic_file(path) as temporary:
        save_file({"scores": evaluation.scores, "owner": evaluation.owner}, temporary, metadata)
