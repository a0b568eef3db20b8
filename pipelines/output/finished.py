"""Which units were finished once: what the dataset manifest lists, whatever became of their files since."""

from __future__ import annotations

from gare.common.records import load_json
from gare.common.storage import Folder
from gare.schema import DATASET_FILE
from pipelines.output.layout import ShardFile, listed_shards


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
