"""The files of an evaluation that other programs read: metrics.json, ranks.parquet and, if asked, the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """Write the raw ``scores`` [N, V] and ``owner`` [N] with the texts, video ids and identity as JSON metadata.

    The format is that of safetensors: the length of a header, the header as JSON, the numbers. The scores are written
    tile by tile, since all of them together need not fit into memory.
    """
    evaluation = measured.evaluation
    named = {"texts": evaluation.texts, "video_ids": video_ids, "identity": dict(identity)}
    texts, videos = evaluation.scores.shape
    begin, end = 8 * texts, 8 * texts + 4 * texts * videos
    header = {
        "__metadata__": {name: json.dumps(value) for name, value in named.items()},
        "owner": {"dtype": "I64", "shape": [texts], "data_offsets": [0, begin]},
        "scores": {"dtype": "F32", "shape": [texts, videos], "data_offsets": [begin, end]},
    }
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        file.write(evaluation.owner.astype("<i8").tobytes())
        start = file.tell()
        for rows, columns, tile in evaluation.scores.tiles():
            for row, scores in enumerate(tile.astype("<f4", copy=False), rows.start):
                file.seek(start + 4 * (row * videos + columns.start))
                file.write(scores.tobytes())
