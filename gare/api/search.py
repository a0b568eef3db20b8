"""``gare.index`` and ``gare.search``: encode the videos of a split, and find those that a sentence describes."""

from __future__ import annotations

from typing import Any

from gare.api import public
from gare.api.checkpoint import open_checkpoint
from gare.api.settings import Place, check_text, local_path, place_text, whole
from gare.common.errors import InputError
from gare.config.tree import Overrides
from gare.data.batches import check_fit
from gare.retrieval.index import Hit, SearchIndex, open_index, write_index
from gare.runs.storage import find_checkpoint


@public
def index(
    checkpoint: Place, shards: Place, split: str = "test", *, out: Place, set: Overrides = (), **settings: Any
) -> SearchIndex:
    """Encode the videos of a split for search, and save them as an index.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        shards: folder or address of ``gare.prepare``.
        split: the split whose videos can be found.
        out: folder for the index.
        set: overrides of ``runtime`` and ``data`` settings by dotted key, or ``key=value`` texts.
        **settings: the same by section, such as ``runtime={"device": "cpu"}``.

    Returns:
        The index, ready for ``gare.search``.

    Raises:
        ConfigError: a setting cannot be used, or model and shards do not fit together.
        InputError: the checkpoint, shards, split or folder cannot be used.
    """
    place = local_path("out", out)
    with open_checkpoint(checkpoint, shards, set, settings) as (folder, model, dataset, config):
        check_fit(model, dataset, config)
        return write_index(place, folder, model, dataset.split(split), config, dataset.digest)


@public
def search(
    index: SearchIndex | Place,
    query: str,
    k: int = 5,
    *,
    checkpoint: Place | None = None,
    first_stage: int | None = None,
) -> list[Hit]:
    """Find the videos that a sentence describes.

    Args:
        index: what ``gare.index`` returned, or its folder. For many queries, pass the opened index: a folder is loaded
            again, with its model, by every call.
        query: the sentence.
        k: how many videos to list; all of them where there are fewer.
        checkpoint: where the checkpoint of a folder's index is now, if it was moved.
        first_stage: score only this many candidates, chosen by two inner products: approximate in the choice.

    Returns:
        The hits, best first: ``rank``, ``score`` (a cosine), ``video_id`` and ``uri``, the source.

    Raises:
        ConfigError: the checkpoint has other weights, or the head has no first stage.
        InputError: the index, its checkpoint or the query cannot be used.
    """
    check_text("query", query)
    k = whole("k", k, 1)
    first_stage = None if first_stage is None else whole("first_stage", first_stage, 1)
    if not isinstance(index, SearchIndex):
        moved = None if checkpoint is None else find_checkpoint(place_text("checkpoint", checkpoint))
        index = open_index(local_path("index", index), moved)
    elif checkpoint is not None:
        raise InputError("checkpoint is for an index given by its folder; the index that you gave is open already.")
    return index.search(query, k, first_stage=first_stage)
