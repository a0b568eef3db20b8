"""The files of a dataset in figures, and whether they are what ``dataset.json`` says."""

from __future__ import annotations

from typing import Any

from gare.common.errors import InputError
from gare.common.storage import Folder
from pipelines.dataset.tools.check import OnProgress, Steps, problems, repeated
from pipelines.dataset.tools.dataset import Dataset, Tally, open_dataset, rows_in_brief
from pipelines.manifest.rows import VideoIds


def stat(place: Folder, *, verify: bool = False, on_progress: OnProgress = lambda *_: None) -> dict[str, Any]:
    """Figures of the finished shards of a folder, as plain values.

    Every shard is opened: its columns, version, recipe, rows and Arrow's full validation are looked at in any case.
    ``verify``: also its digest, the values of its rows, repeated video ids and the figures of ``dataset.json``.
    ``rows``, ``frames``, ``splits``, ``frame_codecs`` and ``frame_sizes`` are of the shards that could be read;
    ``problems`` is a sentence for each thing that is wrong. Raises InputError where there is no dataset.
    """
    dataset = open_dataset(place)
    tally, steps = Tally(), Steps(len(dataset.shards), on_progress)
    if verify:
        ids = VideoIds()
        wrong = [*problems(dataset, tally, ids, steps), *repeated([dataset], ids)]
    else:
        wrong = _count(dataset, tally, steps)
    sizes = [shard.bytes for shard in dataset.shards]
    return {
        "folder": str(place),
        "schema_version": dataset.values["schema_version"],
        "digest": dataset.digest,
        "recipe_digest": dataset.recipe_digest,
        "made_from": dataset.values.get("made_from"),
        "shards": [{"file": s.file, "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256} for s in dataset.shards],
        "rows": tally.rows,
        "frames": tally.frames,
        "bytes": {"total": sum(sizes), "min": min(sizes, default=0), "max": max(sizes, default=0)},
        "splits": dict(sorted(tally.splits.items())),
        "frame_codecs": dict(tally.codecs.most_common()),
        "frame_sizes": dict(tally.sizes.most_common()),
        "recipe": dataset.values["recipe"],
        "verified": verify,
        "problems": wrong,
    }


def _count(dataset: Dataset, tally: Tally, steps: Steps) -> list[str]:
    wrong = []
    for shard in dataset.shards:
        try:
            tally.add(rows_in_brief(dataset.table(shard)))
        except InputError as error:
            wrong.append(str(error))
        steps()
    return wrong
