"""A gallery of encoded videos to search: their factors in safetensors, what they are in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import SafetensorError

from gare.common.errors import ConfigError, InputError
from gare.common.files import atomic_directory, file_digest, write_json
from gare.common.records import LENIENT, checked, load_json
from gare.common.redact import first_line, shown
from gare.common.storage import read_file
from gare.config import Config
from gare.data.shards import Split
from gare.evaluation.encode import encode_texts, encode_videos
from gare.model.checkpoint import WEIGHTS, load_checkpoint_config, load_model
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.scoring.video_index import VideoIndex

INDEX_FILE = "index.json"
VECTORS_FILE = "vectors.safetensors"
INDEX_VERSION = 2


@dataclass(frozen=True)
class Hit:
    """One answer: its rank from 1, its score (a cosine), the video's id and its source file or address."""

    rank: int
    score: float
    video_id: str
    uri: str


@dataclass(frozen=True)
class SearchIndex:
    """A saved index with its model, to search; ``folder`` is where it lies, ``checkpoint`` where its model does."""

    folder: Path
    checkpoint: Path
    index: VideoIndex
    model: GareModel
    tokenizer: Tokenizer
    config: Config
    videos: list[_Video]

    def __repr__(self) -> str:
        """Name the folder and its size, not the weights."""
        return f"SearchIndex(folder={str(self.folder)!r}, checkpoint={str(self.checkpoint)!r}, videos={len(self)})"

    def __len__(self) -> int:
        """Count the videos."""
        return len(self.videos)

    @torch.no_grad()
    def search(self, query: str, top: int, *, first_stage: int | None = None) -> list[Hit]:
        """The ``top`` videos for a sentence, best first; ties in index order.

        ``first_stage``: score exactly only that many candidates, chosen by two inner products a video. The scores
        stay exact; which videos are candidates is approximate. None scores every video.
        """
        if not query.strip():
            raise InputError("The query is empty; give a sentence in quotes.")
        if any("\ud800" <= character <= "\udfff" for character in query):
            raise InputError("The query is not valid UTF-8 text.")
        top = min(top, len(self))
        first_stage = None if first_stage is None else min(first_stage, len(self))
        texts = encode_texts(self.model, self.tokenizer, [query], self.config.data.words, 1)
        text, words, mask = texts.text, texts.words, texts.word_mask
        if first_stage is None:
            places = torch.arange(len(self.index))
            scores = self.index.score(text, words=words, word_mask=mask)[0]
        else:
            candidates = self.index.first_stage(text, max(first_stage, top), words=words, word_mask=mask)
            places = candidates[0].sort().values
            scores = self.index.score_candidates(text, places[None], words=words, word_mask=mask)[0]
        if not bool(torch.isfinite(scores).all()):
            raise InputError("The index holds values that are no finite numbers: it is damaged. Make it again.")
        order = torch.sort(scores, descending=True, stable=True).indices[:top]
        return [
            Hit(place, float(scores[i]), self.videos[video].video_id, self.videos[video].uri)
            for place, (i, video) in enumerate(zip(order.tolist(), places[order].tolist(), strict=True), start=1)
        ]


def write_index(
    folder: Path, checkpoint: Path, model: GareModel, split: Split, config: Config, dataset_digest: str
) -> SearchIndex:
    """Encode a split with the model of a checkpoint, save it as an index and return that.

    Raises InputError for an empty split, a model without a tokenizer, and a folder that holds other things.
    """
    if not len(split):
        raise InputError(f"The split {split.name!r} of {split.folder} is empty; there is nothing to index.")
    tokenizer, weights = _tokenizer(model, checkpoint), file_digest(checkpoint / WEIGHTS)
    videos = [_Video(video_id=video.video_id, uri=video.uri) for video in split.videos]
    with atomic_directory(folder, marker=INDEX_FILE) as temporary:
        encoded = encode_videos(model, split, config.data, config.runtime.eval_batch)
        index = VideoIndex.build(model, encoded.frames, encoded.frame_mask)
        index.save(temporary / VECTORS_FILE)
        write_json(
            temporary / INDEX_FILE,
            {
                "version": INDEX_VERSION,
                "checkpoint": str(checkpoint.resolve()),
                "weights_sha256": weights,
                "dataset_digest": dataset_digest,
                "split": split.name,
                "videos": [video.model_dump() for video in videos],
            },
        )
    return SearchIndex(folder, checkpoint, index, model, tokenizer, config, videos)


def _tokenizer(model: GareModel, checkpoint: Path) -> Tokenizer:
    if model.tokenizer is None:
        raise InputError(f"The checkpoint {checkpoint} has no tokenizer, so a sentence cannot be read.")
    return model.tokenizer


class _Video(BaseModel):
    model_config = LENIENT

    video_id: str
    uri: str


class IndexRecord(BaseModel):
    """The required content of ``index.json``; there may be more in it."""

    model_config = LENIENT

    checkpoint: str
    weights_sha256: str
    split: str
    videos: list[_Video]


def read_index_file(folder: Path) -> IndexRecord:
    """The record of an index's folder; InputError where there is none of this version, or a damaged one."""
    path = folder / INDEX_FILE
    text = read_file(path)
    if text is None:
        raise InputError(f"{folder} is not an index; make one with gare index CHECKPOINT --shards DIR --out {folder}.")
    try:
        values = load_json(text)
        version = values.get("version") if isinstance(values, dict) else None
        if version == INDEX_VERSION:
            return checked(IndexRecord, values)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); make the index again.") from None
    raise InputError(
        f"The index {folder} has version {shown(version)}; this software reads {INDEX_VERSION}. Make it again."
    )


def open_index(folder: Path, checkpoint: Path | None = None) -> SearchIndex:
    """Load an index and the checkpoint it was made with (or a copy of that checkpoint elsewhere).

    Raises InputError when the folder is no index, or the checkpoint is gone or is another one.
    """
    found = read_index_file(folder)
    videos, weights, source = found.videos, found.weights_sha256, checkpoint or Path(found.checkpoint)
    if not (source / WEIGHTS).is_file():
        raise InputError(
            f"The checkpoint {source} of the index {folder} is not there; give its place with --checkpoint."
        )
    if file_digest(source / WEIGHTS) != weights:
        raise ConfigError(f"The index {folder} was made with other weights than those in {source}; make it again.")
    model = load_model(source)
    tokenizer = _tokenizer(model, source)
    try:
        index = VideoIndex.load(model, folder / VECTORS_FILE)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"Cannot read {folder / VECTORS_FILE}: {first_line(error)}. Make the index again.") from None
    if len(videos) != len(index):
        raise InputError(f"{folder / INDEX_FILE} does not name the {len(index)} videos of the index. Make it again.")
    return SearchIndex(folder, source, index, model, tokenizer, load_checkpoint_config(source), videos)
