"""``gare.index``, ``gare.maintain`` and ``gare.search``: make, change and search an index of videos."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from gare.api import public
from gare.api.checkpoint import open_checkpoint, open_clip
from gare.api.settings import Place, check_text, check_texts, local_path, one_of, place_text, whole
from gare.common.console import meter
from gare.common.errors import InputError
from gare.common.occupied import lies_in
from gare.common.storage import is_address
from gare.config.tree import Overrides
from gare.data.batches import check_fit
from gare.data.shards import ShardSet
from gare.jobs.places import Place as CheckedPlace
from gare.model.clip_source import inspect_clip
from gare.retrieval.build import STAGE_ABOVE, RunOf, Storage, append_videos, write_index
from gare.retrieval.changes import check_index, compact_index, delete_videos
from gare.retrieval.folder import read_index_file
from gare.retrieval.index import Hits, SearchIndex
from gare.retrieval.media import Kept
from gare.retrieval.model import IndexModel
from gare.retrieval.moments import by_file as best_files
from gare.retrieval.opening import open_index
from gare.retrieval.windows import with_seconds
from gare.runs.storage import find_checkpoint
from gare.training.numerics import numerics

LOCAL_VIDEOS = 10_000
"""Most videos that are encoded in this process, unless you say so."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@public
def index(
    checkpoint: Place,
    shards: Place,
    split: str = "test",
    *,
    out: Place,
    append: bool = False,
    storage: Storage = "float16",
    previews: bool = True,
    windows: bool = True,
    stage_above: int = STAGE_ABOVE,
    queries: Collection[str] | None = None,
    local: bool | None = None,
    set: Overrides = (),
    **settings: Any,
) -> SearchIndex:
    """Encode the videos of a split for search, and save them as an index.

    After an interruption (Ctrl-C raises KeyboardInterrupt) the same call does the remaining work.

    Args:
        checkpoint: a checkpoint, a run's folder for its best one, or a CLIP's folder or hub id: search without
            training, by the mean of a video's frames.
        shards: folder or address of ``gare.prepare``.
        split: the split whose videos can be found.
        out: folder for the index.
        append: add the videos that the index in ``out`` does not have yet, instead of making a new one.
        storage: type the frame vectors are kept in: "float16", or "float32" for twice the size. An index keeps its own.
        previews: keep small pictures of each video (17 KB), for ``gare serve``. An index keeps to it.
        windows: keep frame vectors from before the temporal transformer (12 KB at 12 frames of CLIP), by which a search
            tells the seconds that the query fits best. An index keeps to it.
        stage_above: above this number of videos, fit a first stage, so that a search scores few of them.
        queries: sentences like those you will search with, to fit the first stage on; the shards' captions by default.
        local: True to encode in this process, False in actors of Ray (``runtime.index_workers``); by default in actors
            if the split has more than 10,000 videos.
        set: overrides of ``runtime`` and ``data`` settings by dotted key, or ``key=value`` texts.
        **settings: the same by section, such as ``runtime={"device": "cpu"}``.

    Returns:
        The index, ready for ``gare.search``.

    Raises:
        ConfigError: a setting cannot be used, or model, shards and index do not fit together.
        InputError: the checkpoint, shards, split or folder cannot be used.
        RunError: another process is changing the index, or Ray stopped.
    """
    one_of("storage", storage, ("float16", "float32"))
    stage_above = whole("stage_above", stage_above, 0)
    if queries is not None:
        check_texts("queries", queries)
    folder = local_path("out", out)
    with _opened(checkpoint, shards, set, settings) as (model, dataset):
        videos = dataset.splits.get(split, {"videos": 0})["videos"]
        by_ray = videos > LOCAL_VIDEOS if local is None else not local
        work = _by_ray(model, place_text("shards", shards), folder) if by_ray else nullcontext()
        with work as run_of, meter("videos", videos) as progress:
            how: Any = {"stage_above": stage_above, "queries": queries, "run_of": run_of}
            how["on_videos"] = progress.update
            if append:
                return append_videos(folder, model, dataset, split, **how)[0]
            return write_index(folder, model, dataset, split, storage=storage, kept=Kept(previews, windows), **how)


@contextmanager
def _by_ray(model: IndexModel, shards: str, folder: Path) -> Iterator[RunOf]:
    """Yield how tasks are done in actors of the cluster that the block is connected to."""
    from gare.launch.ray_index import Source, ray_run
    from gare.launch.ray_session import ray_session

    source = Source.of(model, shards)
    places = [CheckedPlace("--shards", source.shards, "input"), CheckedPlace("--out", str(folder.absolute()), "output")]
    if Path(model.name).is_absolute():
        places.append(CheckedPlace("the model", model.name, "input"))
    with ray_session(model.config.runtime, places=places):
        yield partial(ray_run, source)


@public
def maintain(
    index: Place,
    *,
    delete: Collection[str] = (),
    compact: bool = False,
    check: bool = False,
    checkpoint: Place | None = None,
) -> SearchIndex:
    """Delete videos of an index, compact it and check it, in this order, as requested.

    Args:
        index: the folder of the index.
        delete: ids of the videos to delete.
        compact: rewrite the index as few large files, without the deleted videos.
        check: read all files, and measure again the recall of the first stage.
        checkpoint: where the index's model is now, if you moved it.

    Raises:
        ConfigError: the checkpoint has other weights.
        InputError: the index cannot be read, a file of it is damaged, or it has no video of an id; nothing is deleted.
        RunError: another process is changing the index.
    """
    folder = local_path("index", index)
    check_texts("delete", delete)
    if delete:
        delete_videos(folder, [*delete])
    model = IndexModel.of_index(folder, read_index_file(folder), _moved(checkpoint))
    if compact:
        compact_index(folder, model)
    return check_index(folder, model) if check else SearchIndex.of(folder, read_index_file(folder), model)


@public
def search(
    index: SearchIndex | Place,
    query: str | None = None,
    k: int = 5,
    *,
    like: str | None = None,
    where: Mapping[str, str] | None = None,
    exact: bool = False,
    first_stage: int | None = None,
    by_file: bool = False,
    checkpoint: Place | None = None,
) -> Hits:
    """Find the videos that a sentence describes, or those like another video.

    Args:
        index: what ``gare.index`` returned, or its folder. For many queries, pass the opened index: a folder is loaded
            again, with its model, by every call.
        query: the sentence.
        k: how many videos to list; all of them if there are fewer.
        like: instead of a query, the id of a video of the index.
        where: attributes that the videos must have, such as ``{"colour": "red"}``.
        exact: score every video, even if the index has a first stage.
        first_stage: score this many candidates of the first stage, instead of what the index chooses by its recall.
        by_file: list the best ``k`` files instead, each with the hits among its clips next to each other.
        checkpoint: where the model of a folder's index is now, if you moved it.

    Returns:
        The hits, best first: ``rank``, ``score`` (a cosine), ``video_id``, ``uri``, the source, and ``seconds``,
        where in it the query fits best, or None if the index does not keep windows. It is a list, whose ``searched``
        says how many videos were scored, and the share of the exact answer among them.

    Raises:
        ConfigError: the checkpoint has other weights.
        InputError: the index, its model or the query cannot be used, or the index has no first stage.
    """
    k = whole("k", k, 1)
    first_stage = None if first_stage is None else whole("first_stage", first_stage, 1)
    for name, value in (("query", query), ("like", like)):
        if value is not None:
            check_text(name, value)
    if where is not None:
        check_texts("where", where, by_name=True)
    if (query is None) == (like is None):
        raise InputError("Give either a query or the id of a video that the answers are to be like.")
    index = open_searchable(index, checkpoint)
    k = min(k, max(len(index), 1))
    first_stage = None if first_stage is None else min(first_stage, max(len(index), 1))
    texts = None if query is None else index.encode(query)

    def found(count: int) -> Hits:
        if texts is None:
            return index.like(like or "", count, where=where, exact=exact)
        return index.search(query or "", count, where=where, exact=exact, first_stage=first_stage, texts=texts)

    hits = best_files(index, found, k) if by_file else found(k)
    return hits if texts is None else with_seconds(index, hits, texts)


def open_searchable(index: SearchIndex | Place, checkpoint: Place | None) -> SearchIndex:
    """Return an opened index, or open one by its folder; ``checkpoint``: where its model is now."""
    if not isinstance(index, SearchIndex):
        return open_index(local_path("index", index), _moved(checkpoint))
    if checkpoint is not None:
        raise InputError("checkpoint is for an index given by its folder; the index that you gave is open already.")
    return index


@contextmanager
def _opened(
    source: Place, shards: Place, overrides: Overrides, settings: Mapping[str, Any]
) -> Iterator[tuple[IndexModel, ShardSet]]:
    """Open the model of a checkpoint or of a CLIP, and the shards; the block computes as its settings say."""
    clip = place_text("checkpoint", source)
    if _is_clip(clip):
        model, dataset, config = open_clip(clip, shards, overrides, settings)
        check_fit(model, dataset, config)
        with numerics(config):
            yield IndexModel.of_clip(clip, model, config), dataset
        return
    with open_checkpoint(source, shards, overrides, settings) as (folder, model, dataset, config):
        check_fit(model, dataset, config)
        yield IndexModel.of_checkpoint(folder, model, config), dataset


def _is_clip(source: str) -> bool:
    """Return True if a source is a CLIP's folder or hub id, and not a run or checkpoint."""
    path = Path(source)
    if is_address(source) or path.exists():
        return path.is_dir() and lies_in(path) == "a CLIP model"
    if not HUB_ID.fullmatch(source) or path.parent.exists():
        return False
    try:
        inspect_clip(source)
    except InputError as error:
        raise InputError(f"{source} is neither a run or checkpoint nor a CLIP that can be used: {error}") from None
    return True


def _moved(checkpoint: Place | None) -> Path | None:
    """Return the new place of a moved model: a checkpoint, a run, or a CLIP's folder."""
    if checkpoint is None:
        return None
    place = place_text("checkpoint", checkpoint)
    return Path(place) if _is_clip(place) else find_checkpoint(place)
