"""A gallery of encoded videos to search: vectors in safetensors, what they are in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gare.common.errors import ConfigError, InputError
from gare.common.files import atomic_directory, file_digest, write_json
from gare.config import Config
from gare.data.shards import Split
from gare.model.checkpoint import WEIGHTS
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.retrieval.encode import encode_texts, encode_videos

INDEX_FILE = "index.json"
VECTORS_FILE = "vectors.safetensors"
INDEX_VERSION = 1


class VideoIndex:
    """Videos encoded once, scored against any text exactly as the model scores them."""

    def __init__(self, model: GareModel, frames: Tensor, frame_mask: Tensor) -> None:
        self._model = model
        self.frames = frames
        self.frame_mask = frame_mask

    @classmethod
    def build(cls, model: GareModel, frames: Tensor, frame_mask: Tensor) -> VideoIndex:
        """An index of frame vectors [V, F, D] with mask [V, F]."""
        return cls(model, frames, frame_mask)

    @torch.no_grad()
    def score(
        self, text: Tensor, *, words: Tensor | None = None, word_mask: Tensor | None = None, rows: int = 16
    ) -> Tensor:
        """Cosines [B, V] of text vectors [B, D], ``rows`` texts at a time; words with model.context words."""
        parts = []
        for start in range(0, len(text), rows):
            part = slice(start, start + rows)
            scored = self._model.score(
                text[part],
                self.frames,
                self.frame_mask,
                words=None if words is None else words[part],
                word_mask=None if word_mask is None else word_mask[part],
            )
            parts.append(scored.scores)
        return torch.cat(parts)


@dataclass(frozen=True)
class Hit:
    """One answer: where it stands, how well it matches (cosine), and which video it is."""

    rank: int
    score: float
    video_id: str
    uri: str


@dataclass(frozen=True)
class SearchIndex:
    """A saved index with its model: what ``gare search`` answers from."""

    index: VideoIndex
    model: GareModel
    tokenizer: Tokenizer
    config: Config
    videos: list[dict[str, Any]]

    def search(self, query: str, top: int) -> list[Hit]:
        """The ``top`` videos for a sentence, best first; ties in index order."""
        if not query.strip():
            raise InputError("The query is empty; give a sentence in quotes.")
        texts = encode_texts(self.model, self.tokenizer, [query], self.config.data.words, 1)
        scores = self.index.score(texts.text, words=texts.words, word_mask=texts.word_mask)[0]
        order = torch.sort(scores, descending=True, stable=True).indices[:top].tolist()
        return [
            Hit(place, float(scores[i]), self.videos[i]["video_id"], self.videos[i]["uri"])
            for place, i in enumerate(order, start=1)
        ]


def write_index(
    folder: Path, checkpoint: Path, model: GareModel, split: Split, config: Config, dataset_digest: str
) -> int:
    """Encode a split and save it as an index; returns the number of videos."""
    if not len(split):
        raise InputError(f"The split {split.name!r} of {split.folder} is empty; there is nothing to index.")
    encoded = encode_videos(model, split, config.data.frames, config.runtime.eval_batch)
    with atomic_directory(folder) as temporary:
        save_file({"frames": encoded.frames.cpu(), "frame_mask": encoded.frame_mask.cpu()}, temporary / VECTORS_FILE)
        write_json(
            temporary / INDEX_FILE,
            {
                "version": INDEX_VERSION,
                "checkpoint": str(checkpoint.resolve()),
                "weights_sha256": file_digest(checkpoint / WEIGHTS),
                "dataset_digest": dataset_digest,
                "split": split.name,
                "videos": [{"video_id": v.video_id, "uri": v.uri} for v in split.videos],
            },
        )
    return len(split)


def open_index(folder: Path, checkpoint: Path | None = None) -> SearchIndex:
    """Load an index and the checkpoint it was made with (or a copy of that checkpoint elsewhere).

    Raises InputError when the folder is no index, or the checkpoint is gone or is another one.
    """
    from gare.model.checkpoint import load_checkpoint_config, load_model

    try:
        values = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / VECTORS_FILE)
        version, videos = values["version"], values["videos"]
        recorded, weights = Path(values["checkpoint"]), values["weights_sha256"]
    except (OSError, ValueError, KeyError, SafetensorError):
        raise InputError(
            f"{folder} is not an index; make one with gare index CHECKPOINT --shards DIR --out {folder}."
        ) from None
    if version != INDEX_VERSION:
        raise InputError(
            f"The index {folder} has version {version}; this software reads {INDEX_VERSION}. Make it again."
        )
    source = checkpoint or recorded
    if not (source / WEIGHTS).is_file():
        raise InputError(
            f"The checkpoint {source} of the index {folder} is not there; give its place with --checkpoint."
        )
    if file_digest(source / WEIGHTS) != weights:
        raise ConfigError(f"The index {folder} was made with other weights than those in {source}; make it again.")
    model = load_model(source)
    if model.tokenizer is None:
        raise InputError(f"The checkpoint {source} has no tokenizer, so a sentence cannot be read.")
    index = VideoIndex.build(model, tensors["frames"], tensors["frame_mask"])
    return SearchIndex(index, model, model.tokenizer, load_checkpoint_config(source), videos)
