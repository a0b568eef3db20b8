"""MSR-VTT: 10,000 clips with 20 captions each.

``train.9k`` and ``train.7k`` are the train lists of the 1k-A protocol, whose test clips have one query each. Both
include the whole official validation split. ``train.9k`` also includes most of the full test split.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from gare.common.errors import InputError
from pipelines.manifest.benchmarks.annotations import Entry, Folder, Options, Published, Split, expect, text_of

DATA: Final = "MSRVTT_data.json"
TRAIN: Final = {
    "9k": ("MSRVTT_train.9k.csv", Published(9000, 180_000)),
    "7k": ("MSRVTT_train.7k.csv", Published(7010, 140_200)),
}
DEV: Final = "MSRVTT_val.full.csv"
DEV_PUBLISHED: Final = Published(497, 9940)
TEST: Final = {
    "1k-A": ("MSRVTT_JSFUSION_test.csv", Published(1000, 1000)),
    "full": ("MSRVTT_test.full.csv", Published(2990, 59_800)),
}
FULL_INSIDE_9K: Final = 1990
CATEGORIES: Final = (
    "music", "people", "gaming", "sports/actions", "news/events/politics", "education", "tv shows", "movie/comedy",
    "animation", "vehicles/autos", "howto", "travel", "science/technology", "animals/pets", "kids/family",
    "documentary", "food/drink", "cooking", "beauty/fashion", "advertisement",
)  # fmt: skip


@dataclass
class _Data:
    """Contents of MSRVTT_data.json: captions and attributes by video, and the ids of its validation split."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    validation: list[str] = field(default_factory=list)


def read(folder: Folder, options: Options) -> list[Split]:
    """Read the splits of one protocol. Raises InputError for a test split that overlaps the train list."""
    if (options.train, options.test) == ("9k", "full"):
        raise InputError(
            f"--train 9k holds {FULL_INSIDE_9K:,} of the {TEST['full'][1].videos:,} videos of --test full; "
            "take --train 7k with it, or --test 1k-A."
        )
    data = _data(folder) if folder.has(DATA) else _Data()
    train, of_train = TRAIN[options.train]
    test, of_test = TEST[options.test]
    # Few copies of the dataset come with the validation list; MSRVTT_data.json names the same videos.
    if not folder.has(DEV) and data.validation:
        dev = folder.split("dev", (DATA,), DEV_PUBLISHED, partial(_entries, data.validation, data))
    else:
        dev = folder.split("dev", (DEV, DATA), DEV_PUBLISHED, partial(_listed, folder, DEV, data))
    queries = options.test == "1k-A"
    return [
        folder.split("train", (train, DATA), of_train, partial(_listed, folder, train, data)),
        dev,
        folder.split("test", (test,), of_test, partial(_queries, folder, test, data))
        if queries
        else folder.split("test", (test, DATA), of_test, partial(_listed, folder, test, data)),
    ]


def _listed(folder: Folder, name: str, data: _Data) -> list[Entry]:
    return _entries([video_id for (video_id,) in folder.rows(name, "video_id")], data)


def _queries(folder: Folder, name: str, data: _Data) -> list[Entry]:
    rows = folder.rows(name, "video_id", "sentence")
    return [Entry(video_id, [sentence], attributes=data.attributes.get(video_id, {})) for video_id, sentence in rows]


def _entries(video_ids: list[str], data: _Data) -> list[Entry]:
    return [Entry(v, data.captions.get(v, []), attributes=data.attributes.get(v, {})) for v in video_ids]


def _data(folder: Folder) -> _Data:
    where = str(folder.path / DATA)
    value = expect(dict, folder.json(DATA), where, "an object with videos and sentences")
    data = _Data()
    for number, video in enumerate(expect(list, value.get("videos"), f"{where}: videos", "a list"), 1):
        _add_video(data, video, f"{where}: video {number}")
    for number, row in enumerate(expect(list, value.get("sentences"), f"{where}: sentences", "a list"), 1):
        place = f"{where}: sentence {number}"
        data.captions.setdefault(text_of(row, "video_id", place), []).append(text_of(row, "caption", place))
    return data


def _add_video(data: _Data, video: Any, where: str) -> None:
    video_id = text_of(video, "video_id", where)
    category = video.get("category")
    if category is not None:
        if type(category) is not int or not 0 <= category < len(CATEGORIES):
            raise InputError(f"{where} has the category {category!r}, which is not 0 to {len(CATEGORIES) - 1}.")
        data.attributes[video_id] = {"category": CATEGORIES[category]}
    if video.get("split") == "validate":
        data.validation.append(video_id)
