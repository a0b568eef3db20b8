"""DiDeMo: Flickr videos of which annotators described moments; a video's descriptions make one paragraph.

The same video may be named under two extensions, and some names end in a bare dot: a video is its name's stem.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from pipelines.benchmarks.annotations import Entry, Folder, Options, Published, Split, expect, text_of
from pipelines.benchmarks.videos import stem_of

FILES: Final = {
    "train": ("train_data.json", Published(8395)),
    "dev": ("val_data.json", Published(1065, 4180)),
    "test": ("test_data.json", Published(1004)),
}
CLIP_SECONDS: Final = 30.0


def read(folder: Folder, _options: Options) -> list[Split]:
    """The three splits."""
    return [
        folder.split(split, (name,), published, partial(_videos, folder, name))
        for split, (name, published) in FILES.items()
    ]


def _videos(folder: Folder, name: str) -> list[Entry]:
    descriptions: dict[str, list[str]] = {}
    files: dict[str, dict[str, None]] = {}
    where = str(folder.path / name)
    for number, row in enumerate(expect(list, folder.json(name), where, "a list of descriptions"), 1):
        place = f"{where}: description {number}"
        file = text_of(row, "video", place)
        stem = stem_of(file)
        descriptions.setdefault(stem, []).append(text_of(row, "description", place))
        files.setdefault(stem, {})[file] = None
    return [Entry(stem, texts, (*files[stem], stem), CLIP_SECONDS) for stem, texts in descriptions.items()]
