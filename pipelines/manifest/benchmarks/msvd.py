"""MSVD: short YouTube clips with about 40 captions each, published as a pickle."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from gare.common.errors import InputError
from gare.common.plain_pickle import Machine, RefusedError
from pipelines.manifest.benchmarks.annotations import Entry, Folder, Options, Published, Split, expect

CAPTIONS: Final = "raw-captions.pkl"
LISTS: Final = {
    "train": ("train_list.txt", Published(1200)),
    "dev": ("val_list.txt", Published(100)),
    "test": ("test_list.txt", Published(670)),
}
MAX_BYTES: Final = 64 * 2**20
MAX_CHARACTERS: Final = 2**25


def read(folder: Folder, _options: Options) -> list[Split]:
    """Read the three splits. Raises InputError if the pickle holds more than plain captions; none of it is executed."""
    captions = _captions(folder) if folder.has(CAPTIONS) else {}
    return [
        folder.split(split, (name, CAPTIONS), published, partial(_videos, folder, name, captions))
        for split, (name, published) in LISTS.items()
    ]


def _videos(folder: Folder, name: str, captions: dict[str, list[str]]) -> list[Entry]:
    return [Entry(video_id, captions.get(video_id, [])) for video_id in map(str.strip, folder.lines(name)) if video_id]


def _captions(folder: Folder) -> dict[str, list[str]]:
    """Read captions by video from a pickle of ``{video_id: [[token, ...], ...]}``; tokens are joined by spaces."""
    path = folder.path / CAPTIONS
    try:
        value = Machine().run(folder.content(CAPTIONS, MAX_BYTES))
    except RefusedError as error:
        raise InputError(f"Cannot read {path} as captions: {error}.") from None
    videos = expect(dict, value, str(path), "a mapping of videos to captions")
    # A small pickle can expand to a great many tokens by referring to the same ones repeatedly.
    characters = 0
    read: dict[str, list[str]] = {}
    for video_id, captions in videos.items():
        where = f"{path}: {video_id!r}"
        read[expect(str, video_id, where, "a video's id")] = sentences = []
        for tokens in expect(list, captions, where, "a list of captions"):
            characters += 1 + _length(tokens, where)
            if characters > MAX_CHARACTERS:
                raise InputError(f"{path} unfolds to more than {MAX_CHARACTERS:,} characters.")
            sentences.append(" ".join(tokens))
    return read


def _length(tokens: Any, where: str) -> int:
    if not isinstance(tokens, list | tuple) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"{where} has a caption that is not a list of words; is it the file as published?")
    return len(tokens) + sum(map(len, tokens))
