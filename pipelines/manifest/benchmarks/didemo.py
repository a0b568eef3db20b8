"""DiDeMo: Flickr videos with moments that annotators described; a video's descriptions make one paragraph.

The same video may appear under two extensions, and some names end in a bare dot, so a video is its name's stem.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Final

from gare.common.errors import InputError
from pipelines.manifest.benchmarks.annotations import Entry, Folder, Moment, Options, Published, Split, expect, text_of
from pipelines.manifest.benchmarks.videos import stem_of

FILES: Final = {
    "train": ("train_data.json", Published(8395)),
    "dev": ("val_data.json", Published(1065, 4180)),
    "test": ("test_data.json", Published(1004)),
}
CLIP_SECONDS: Final = 30.0
SEGMENT_SECONDS: Final = 5.0


def read(folder: Folder, options: Options) -> list[Split]:
    """Read the three splits."""
    return [
        folder.split(split, (name,), published, partial(_videos, folder, name, moments=options.moments))
        for split, (name, published) in FILES.items()
    ]


def _videos(folder: Folder, name: str, *, moments: bool) -> list[Entry]:
    descriptions: dict[str, list[str]] = {}
    described: dict[str, list[Moment]] = {}
    files: dict[str, dict[str, None]] = {}
    where = str(folder.path / name)
    for number, row in enumerate(expect(list, folder.json(name), where, "a list of descriptions"), 1):
        place = f"{where}: description {number}"
        file = text_of(row, "video", place)
        stem = stem_of(file)
        descriptions.setdefault(stem, []).append(text_of(row, "description", place))
        files.setdefault(stem, {})[file] = None
        if moments:
            described.setdefault(stem, []).append(Moment(*_times(row, place), descriptions[stem][-1]))
    return [
        Entry(stem, texts, (*files[stem], stem), CLIP_SECONDS, moments=described.get(stem, ()))
        for stem, texts in descriptions.items()
    ]


def _times(row: Any, where: str) -> tuple[float, float]:
    """Return a moment's start and end in seconds: those that most annotators gave; ties keep the first.

    Annotators gave the first and the last of the 5 s segments that the moment fills, counted from 0.
    """
    times = row.get("times")
    most = int(CLIP_SECONDS / SEGMENT_SECONDS)
    if not isinstance(times, list) or not times or not all(_is_span(span, most) for span in times):
        raise InputError(f"{where} has no times in segments of 5 s, such as [[0, 1]]; is it the file as published?")
    first, last = Counter(map(tuple, times)).most_common(1)[0][0]
    return first * SEGMENT_SECONDS, (last + 1) * SEGMENT_SECONDS


def _is_span(span: Any, most: int) -> bool:
    whole = isinstance(span, list) and len(span) == 2 and all(type(number) is int for number in span)
    return whole and 0 <= span[0] <= span[1] < most
