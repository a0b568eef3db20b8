"""Write the files of an evaluation for other programs: metrics.json, ranks.parquet and, if requested, the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gare.common.errors import InputError
from gare.common.files import atomic_file, write_json
from gare.common.occupied import refuse_occupied
from gare.common.records import load_json
from gare.common.storage import read_file
from gare.data.shards import Split
from gare.evaluation.measure import LEVEL, SEED, Measurement
from gare.evaluation.metrics.query_table import RANKS_FILE, QueryTable, write_queries

METRICS_FILE = "metrics.json"
SCORES_FILE = "scores.safetensors"
RESULT_FILES = (METRICS_FILE, RANKS_FILE, SCORES_FILE)
SAME = ("split", "frames", "dataset_digest")
"""Keys of an evaluation's identity that stay the same when it is repeated; ``MODEL``: those that identify the model."""
MODEL = ("weights_digest", "config_digest")


def refuse_another(folder: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raise InputError for a folder that holds anything but an earlier evaluation with the same identity.

    ``overwrite``: allow replacing a different evaluation.
    """
    refuse_occupied(folder, "an evaluation")
    text = read_file(folder / METRICS_FILE)
    if text is None:
        # Without metrics.json, ranks are left from an interrupted exchange of results; other files are not ours.
        there = [name for name in (*RESULT_FILES, "report.html") if (folder / name).exists()]
        if there and RANKS_FILE not in there:
            raise InputError(f"{folder} holds a {there[0]} that is of no evaluation; choose another folder.")
        return
    if overwrite:
        return
    try:
        known = load_json(text, nan=True)
        other = [f"{name} {known[name]}" for name in SAME if known[name] != identity[name]]
        if not _same_model(folder, known, identity):
            same_place = Path(known["checkpoint"]) == Path(identity["checkpoint"])
            other.insert(0, f"checkpoint {known['checkpoint']}" + " of other weights or settings" * same_place)
    except (ValueError, TypeError, KeyError):
        other = [f"a damaged {METRICS_FILE}"]
    if other:
        raise InputError(
            f"{folder} holds another evaluation ({', '.join(other)}): give another --out, or replace it with "
            "--overwrite."
        )


def _same_model(folder: Path, known: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Return True if a folder's evaluation is of this model: by digests, or by its place if it has no weights' digest.

    If the folder is inside the checkpoint, it always is.
    """
    model = Path(identity["checkpoint"]).absolute()
    if model in folder.absolute().parents:
        return True
    digests = [(known[name], identity[name]) for name in MODEL if known.get(name) and identity[name]]
    if any(before != now for before, now in digests):
        return False
    return bool(known.get("weights_digest")) or Path(known["checkpoint"]).absolute() == model


def write_results(
    folder: Path, measured: Measurement, split: Split, identity: Mapping[str, Any], *, scores: bool
) -> dict[str, Any]:
    """Write the files into an existing folder and return the content of metrics.json.

    ``identity``: the evaluated model and data; it has a ``dataset_digest``.
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
    return values


def write_scores(path: Path, measured: Measurement, video_ids: list[str], identity: Mapping[str, Any]) -> None:
    """Write the raw ``scores`` [N, V] and ``owner`` [N] with the texts, video ids and identity as JSON metadata.

    The format is safetensors: the length of a header, the header as JSON, the numbers. The scores are written tile by
    tile, since they may not all fit into memory.
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
