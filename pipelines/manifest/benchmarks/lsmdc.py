"""LSMDC 2016: clips of movies, each a file of its own, with a sentence of the audio description."""

from __future__ import annotations

from functools import partial
from typing import Final

from gare.common.errors import InputError
from pipelines.manifest.benchmarks.annotations import Entry, Folder, Options, Published, Split

FILES: Final = {
    "train": ("LSMDC16_annos_training.csv", Published()),
    "dev": ("LSMDC16_annos_val.csv", Published()),
    "test": ("LSMDC16_challenge_1000_publictect.csv", Published(1000, 1000)),
}
CELLS: Final = 6


def read(folder: Folder, _options: Options) -> list[Split]:
    """Read the three splits; the test split has the 1,000 queries of the challenge."""
    return [
        folder.split(split, (name,), published, partial(_clips, folder, name))
        for split, (name, published) in FILES.items()
    ]


def _clips(folder: Folder, name: str) -> list[Entry]:
    """Read lines of clip id, start and end (aligned, then extracted) and sentence; a clip may have several lines.

    The times count from the beginning of the movie; each clip's file is already cut.
    """
    sentences: dict[str, list[str]] = {}
    for number, line in enumerate(folder.lines(name), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != CELLS:
            raise InputError(
                f"{folder.path / name} line {number} has {len(cells)} cells between tabs and not {CELLS}: "
                "clip, four times, sentence."
            )
        sentences.setdefault(cells[0].strip(), []).append(cells[-1])
    return [Entry(clip_id, texts) for clip_id, texts in sentences.items()]
