"""CLIP as it comes, the baseline without training: a video is the mean of its frames' embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gare.config import Config
from gare.data.shards import Split
from gare.data.views import View
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer
from gare.retrieval.encode import FrameChoice, in_parts, load_clips


@dataclass(frozen=True)
class ZeroShotScorer:
    """The towers of ``model`` alone; neither its temporal transformer nor its head is used.

    A video is the mean of the normalised embeddings of its valid frames, normalised again; a score is its cosine with
    the text embedding (mean pooling, the parameter-free similarity of CLIP4Clip, arXiv 2104.08860).
    """

    model: GareModel
    tokenizer: Tokenizer
    config: Config
    frames: FrameChoice = "all"

    @property
    def scale(self) -> float:
        """Exp of CLIP's logit scale."""
        return self.model.logit_scale.item()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Normalised text embeddings [N, D]."""
        model, device = self.model, self.model.clip.logit_scale.device

        def block(start: int, stop: int) -> tuple[Tensor, ...]:
            ids, mask = (x.to(device) for x in self.tokenizer(texts[start:stop], self.config.data.words))
            return (F.normalize(model.encode_text(ids, mask), dim=-1),)

        return in_parts(len(texts), self.config.runtime.eval_batch, block)[0]

    @torch.no_grad()
    def encode_videos(self, split: Split, videos: Sequence[int]) -> Tensor:
        """Normalised means [V, D] of the numbered videos' frames."""
        model, device = self.model, self.model.clip.logit_scale.device
        view = View(self.config.data, model.image_size)

        def block(start: int, stop: int) -> tuple[Tensor, ...]:
            clips, mask = load_clips(split, videos[start:stop], view, self.frames)
            mask = mask.to(device)
            embedded = F.normalize(model.embed_images(model.normalise(clips.to(device)[mask])), dim=-1)
            frames = embedded.new_zeros(*mask.shape, embedded.shape[-1])
            frames[mask] = embedded
            return (F.normalize(frames.sum(dim=1) / mask.sum(dim=1, keepdim=True), dim=-1),)

        return in_parts(len(videos), self.config.runtime.eval_batch, block)[0]

    def score(self, texts: Tensor, videos: Tensor) -> Tensor:
        """Cosines [N, V]."""
        return texts @ videos.T
