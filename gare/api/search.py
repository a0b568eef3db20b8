"""``gare.index`` and ``gare.search``: encode the videos of a split, and find those that a sentence describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gare.api import public
from gare.api.checkpoint import open_checkpoint
from gare.api.settings import Place, between
from gare.config.tree import Overrides
from gare.data.batches import check_fit
from gare.retrieval.index import Hit, SearchIndex, open_index, write_index
from gare.runs.storage import find_checkpoint

MOST = 2**40


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
    with open_checkpoint(checkpoint, shards, set, settings) as (folder, model, dataset, config):
        check_fit(model, dataset, config)
        return write_index(Path(str(out)), folder, model, dataset.split(split), config, dataset.digest)


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
    between("k", k, 1, MOST)
    if first_stage is not None:
        between("first_stage", first_stage, 1, MOST)
    if not isinstance(index, SearchIndex):
        index = open_index(Path(str(index)), find_checkpoint(str(checkpoint)) if checkpoint is not None else None)
    return index.search(query, k, first_stage=first_stage)
