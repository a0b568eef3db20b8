"""The dataset manifest: made from the ledger parts, and the shards of each unit that an earlier one lists."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from gare.common.errors import RunError
from gare.common.records import load_json
from gare.common.storage import Folder
from gare.schema import DATASET_FILE, SCHEMA_VERSION
from pipelines.dataset.layout import Output, ShardFile, dataset_digest, listed_shards
from pipelines.dataset.ledger import Ledger, Unfinished
from pipelines.dataset.recipe import stated

COUNTED = ["status", "reason", "frames", "notes", "split"]


def once_finished(place: Folder) -> dict[int, list[ShardFile]] | None:
    """The shards of each unit by the dataset manifest; none without one, None when it is there and damaged."""
    text = place.read_text(DATASET_FILE)
    if text is None:
        return {}
    try:
        shards = listed_shards(load_json(text)["shards"])
    except (ValueError, KeyError, TypeError):
        return None
    units: dict[int, list[ShardFile]] = {}
    for shard in shards:
        units.setdefault(shard.unit, []).append(shard)
    return units


def dataset_manifest(output: Output) -> dict[str, Any]:
    """Make the dataset manifest from the ledger parts alone: the same for any number of workers and reruns.

    Raises RunError naming a unit that is not finished.
    """
    outcomes: dict[str, Counter[str]] = {"filtered": Counter(), "failed": Counter()}
    splits: dict[str, dict[str, int]] = {}
    shards: list[ShardFile] = []
    rows, ok, frames, notes = 0, 0, 0, Counter[str]()
    for unit, part in enumerate(Ledger(output).each()):
        if isinstance(part, Unfinished):
            raise RunError(f"Unit {unit} of {output.place} was not finished: {part} Run the same command again.")
        shards.extend(part.shards)
        captions = pc.list_value_length(output.batch(unit).column("captions")).to_pylist()
        for entry, number in zip(part.table.select(COUNTED).to_pylist(), captions, strict=True):
            rows += 1
            if entry["status"] != "ok":
                outcomes[entry["status"]][entry["reason"]] += 1
                continue
            ok, frames = ok + 1, frames + entry["frames"]
            notes.update(entry["notes"])
            split = splits.setdefault(entry["split"], {"videos": 0, "captions": 0})
            split["videos"] += 1
            split["captions"] += number
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": stated(output.recipe, output.lacking),
        "recipe_digest": output.digest,
        "manifest_sha256": output.manifest_sha256,
        "digest": dataset_digest(output.digest, shards),
        "shards": [asdict(shard) for shard in shards],
        "totals": {
            "rows": rows,
            "ok": ok,
            **{status: dict(sorted(counts.items())) for status, counts in outcomes.items()},
            "notes": dict(sorted(notes.items())),
            "frames": frames,
            "bytes": sum(shard.bytes for shard in shards),
        },
        "splits": dict(sorted(splits.items())),
    }
