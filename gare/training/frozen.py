"""Encode with frozen towers once: their embeddings are kept in files, which every epoch and every run reads.

A tower of ``train.freeze`` makes the same vectors of a frame or a text in every step. Ranks share the work by shards,
and a file holds the embeddings of one shard. Its name and its content say how they were made, so runs that would make
others never read it, and one that is damaged is made again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gare.common.console import meter, warn
from gare.common.files import canonical_json, digest_of
from gare.config import Config
from gare.data.batches import View
from gare.data.shards import Split
from gare.data.vectors import Embedded, Floats, VectorFile, Vectors, read_vectors, write_vectors
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.model.weights import weights_digest
from gare.objective.world import World
from gare.runs.inputs import TrainingData
from gare.training.numerics import tower_precision

VERSION = 1
"""Increase this whenever the same recipe would make other embeddings."""


def with_embeddings(
    data: TrainingData, model: GareModel, tokenizer: Tokenizer, config: Config, world: World
) -> TrainingData:
    """Return data that is read as embeddings of the frozen towers, made now where they are missing.

    Call on every rank, once the model has the weights that the run starts with. Unchanged if no tower is frozen, if
    what it sees differs between epochs (``data.augment``, ``data.crop`` random, dropout of its own), or with
    ``runtime.embeddings`` null.
    """
    frames, texts = _Frames(model, tokenizer, config), _Texts(model, tokenizer, config)
    made = [_made(tower, data, config, world) if _is_constant(tower, config) else None for tower in (frames, texts)]
    if made == [None, None]:
        return data
    embedded = Embedded(*made)
    dev = None if data.dev is None else data.dev.with_embedded(embedded)
    return replace(data, train=data.train.with_embedded(embedded), dev=dev)


@dataclass(frozen=True)
class _Tower(ABC):
    """One tower and what it makes of the rows of a shard."""

    model: GareModel
    tokenizer: Tokenizer
    config: Config

    part = ""
    """Its name in ``train.freeze``."""

    @property
    @abstractmethod
    def modules(self) -> torch.nn.ModuleList:
        """Return the modules that its embeddings depend on."""

    @property
    @abstractmethod
    def dropout(self) -> float:
        """Return its own dropout in training."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Return what its embeddings depend on, besides weights, dataset and arithmetic."""

    @abstractmethod
    def counts(self, shard: Split) -> dict[str, int | None]:
        """Return the names in a shard's file, each with its number of vectors, None if that is not known."""

    @abstractmethod
    def encode(self, shard: Split) -> Iterator[tuple[str, Floats]]:
        """Yield name and vectors of each, on the CPU; the caller has turned gradients off."""

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.model.clip.logit_scale.device
        return device


class _Frames(_Tower):
    part = "image_tower"

    @property
    def modules(self) -> torch.nn.ModuleList:
        return torch.nn.ModuleList([self.model.clip.vision_model, self.model.family.ends(self.model.clip)[1]])

    @property
    def dropout(self) -> float:
        return float(self.model.clip.config.vision_config.attention_dropout)

    def recipe(self) -> dict[str, Any]:
        data, pixels = self.config.data, self.model.pixels
        count = data.frames if data.sampling == "linspace" else None
        own = {"sampling": data.sampling, "frames": count, "mean": list(pixels.mean), "std": list(pixels.std)}
        return own | {"config": vars(self.model.clip.config.vision_config)}

    def counts(self, shard: Split) -> dict[str, int | None]:
        view = self._view()
        return {video.video_id: len(view.kept(shard.count(i))) for i, video in enumerate(shard.videos)}

    def encode(self, shard: Split) -> Iterator[tuple[str, Floats]]:
        view, clips_at_once = self._view(), self.config.runtime.eval_batch
        limit = clips_at_once * self.config.data.frames  # frames, as in evaluation; a clip may have kept many more
        most = max(count or 1 for count in self.counts(shard).values())
        batch = max(1, min(clips_at_once, limit // most))
        for start in range(0, len(shard), batch):
            clips = [view.kept_squares(shard, i) for i in range(start, min(start + batch, len(shard)))]
            pixels = torch.from_numpy(np.stack([square for clip in clips for square in clip])).permute(0, 3, 1, 2)
            with tower_precision(self.config.train, self._device):
                parts = [part.to(self._device) for part in torch.split(pixels, limit)]
                made = torch.cat([self.model.embed_images(self.model.normalise(part)) for part in parts])
            ends = np.cumsum([len(clip) for clip in clips])[:-1]
            ids = [video.video_id for video in shard.videos[start : start + batch]]
            yield from zip(ids, np.split(made.float().cpu().numpy(), ends), strict=True)

    def _view(self) -> View:
        return View(self.config.data, self.model.image_size)


class _Texts(_Tower):
    part = "text_tower"

    @property
    def modules(self) -> torch.nn.ModuleList:
        return torch.nn.ModuleList([self.model.clip.text_model, self.model.family.ends(self.model.clip)[0]])

    @property
    def dropout(self) -> float:
        return float(self.model.clip.config.text_config.attention_dropout)

    def recipe(self) -> dict[str, Any]:
        words: dict[str, Any] = {"words": self.config.data.words, "each_word": self.config.model.reads_words}
        words |= {"tokenizer": self.tokenizer.fingerprint(), "end": self.model.end_id, "pad": self.model.pad_id}
        return words | {"config": vars(self.model.clip.config.text_config)}

    def counts(self, shard: Split) -> dict[str, int | None]:
        count = None if self.config.model.reads_words else 1
        return {caption: count for video in shard.videos for caption in video.captions}

    def encode(self, shard: Split) -> Iterator[tuple[str, Floats]]:
        names, batch = list(self.counts(shard)), self.config.runtime.eval_batch
        for start in range(0, len(names), batch):
            part = names[start : start + batch]
            ids, mask = (x.to(self._device) for x in self.tokenizer(part, self.config.data.words))
            with tower_precision(self.config.train, self._device):
                text, words = self.model.encode_texts(ids, mask)
            for row, name in enumerate(part):
                of_words = words[row, mask[row]] if self.config.model.reads_words else words[row, :0]
                yield name, torch.cat([text[row : row + 1], of_words]).float().cpu().numpy()


def _is_constant(tower: _Tower, config: Config) -> bool:
    if tower.part not in config.train.freeze or tower.dropout or config.runtime.embeddings is None:
        return False
    return tower.part == "text_tower" or (config.data.augment == "none" and config.data.crop == "centre")


@torch.no_grad()
def _made(tower: _Tower, data: TrainingData, config: Config, world: World) -> Vectors | None:
    """Return the embeddings of all rows of the shards with training or dev videos, made where they are missing."""
    tower.model.eval()
    files = _Files(tower, data.digest)
    names = data.shards.holding({config.data.train_split, config.data.dev_split})
    found: dict[str, VectorFile | None] = {}
    lacking = world.rank == 0 and not all(files.path(name).is_file() for name in names)
    title = f"shards through the frozen {tower.part.replace('_', ' ')}, once"
    with meter(title, len(names)) if lacking else nullcontext() as shown:
        for start in range(0, len(names), world.size):
            for name in names[start + world.rank : start + world.rank + 1]:
                found[name] = files.checked(name, data.shards.file(name))
            # Ranks wait for each other after every shard, so that none waits longer than the group allows.
            world.gather_texts("")
            if shown is not None:
                shown.update(min(start + world.size, len(names)))
    for name in names:
        if name not in found:
            found[name] = files.checked(name, data.shards.file(name), whole=False)
    opened = [file for name in names if (file := found[name]) is not None]
    return Vectors(opened) if opened else None


class _Files:
    """The files of one tower's embeddings of a dataset."""

    def __init__(self, tower: _Tower, dataset: str) -> None:
        train, runtime = tower.config.train, tower.config.runtime
        recipe = {"version": VERSION, "tower": tower.part, "dataset": dataset, **tower.recipe()}
        recipe |= {"weights": weights_digest(tower.modules), "precision": train.precision, "tf32": train.tf32}
        self._tower, self._recipe = tower, canonical_json(recipe)
        self._folder = Path(runtime.output) / str(runtime.embeddings) / f"{tower.part}-{digest_of(recipe)}"

    def path(self, name: str) -> Path:
        """Return the file for a shard."""
        return self._folder / name

    def checked(self, name: str, shard: Split, *, whole: bool = True) -> VectorFile | None:
        """Open the embeddings of a shard; make them if they are missing or damaged. None if there are none to make.

        ``whole``: check all bytes.
        """
        path, counts = self.path(name), self._tower.counts(shard)
        if not counts:
            return None
        try:
            return read_vectors(path, self._recipe, counts, whole=whole)
        except FileNotFoundError:
            pass
        except ValueError as error:
            warn(f"The embeddings in {path} cannot be used ({error}); they are made again.")
        write_vectors(path, self._recipe, dict(self._tower.encode(shard)))
        return read_vectors(path, self._recipe, counts, whole=False)
