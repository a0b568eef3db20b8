"""Count a corpus, from a manifest or shards, for the plan of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gare.common.errors import InputError
from gare.config import Config
from gare.data.samples import trains_on
from gare.data.shards import ShardSet

Row = tuple[str, int, Mapping[str, str]]
"""Split, number of captions and attributes of a video."""


@dataclass
class SplitCounts:
    """Videos and captions of a split, and the number of its videos that are trained on."""

    videos: int = 0
    captions: int = 0
    trained_on: int = 0


@dataclass(frozen=True)
class Corpus:
    """Counts by split, and the caption count of each video that is trained on.

    ``where``: the manifest or the folder of shards. ``stored_bytes``: of the shards, if they exist.
    """

    where: str
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    train_captions: list[int] = field(default_factory=list)
    stored_bytes: int | None = None

    @classmethod
    def of_rows(cls, where: str, rows: Iterable[Row], config: Config, stored_bytes: int | None = None) -> Corpus:
        """Count rows as the settings use them."""
        corpus = cls(where, stored_bytes=stored_bytes)
        for split, captions, attributes in rows:
            counts = corpus.splits.setdefault(split, SplitCounts())
            counts.videos += 1
            counts.captions += captions
            if trains_on(config, split, attributes):
                counts.trained_on += 1
                corpus.train_captions.append(captions)
        return corpus

    @classmethod
    def of_shards(cls, shards: ShardSet, config: Config) -> Corpus:
        """Count the videos of prepared shards."""
        size = sum(int(entry.get("bytes", 0)) for entry in shards.manifest["shards"])
        return cls.of_rows(str(shards.folder), shards.rows(), config, size)

    @property
    def videos(self) -> int:
        """Return the number of videos in all splits."""
        return sum(counts.videos for counts in self.splits.values())

    def require(self, split: str) -> SplitCounts:
        """Return the counts of a split; InputError for an unknown one."""
        if split not in self.splits:
            raise InputError(f"{self.where} has no split {split!r}; its splits are: {', '.join(sorted(self.splits))}.")
        return self.splits[split]
