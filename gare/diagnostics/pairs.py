"""Compute the state of a model's pairs on stored videos."""

from __future__ import annotations

from pathlib import Path

import torch

from gare.common.errors import InputError
from gare.config import Config
from gare.config.heads import HEADS, NO_INCREMENTS
from gare.data.batches import Batch, encode_batch, make_batch
from gare.data.shards import Split
from gare.diagnostics.figure import increment_figure
from gare.diagnostics.measures import PairState, observe, pair_diagnostics
from gare.model.gare import GareModel
from gare.model.tokenizer import Tokenizer


def diagnose_split(
    model: GareModel, tokenizer: Tokenizer, split: Split, config: Config, pairs: int, figure: Path, of: str
) -> tuple[int, dict[str, float]]:
    """Measure the effect of the increments on a split's first captioned videos, and draw the figure (PNG).

    Args:
        model: the model, on its device.
        tokenizer: its tokenizer.
        split: the videos and their captions.
        config: settings of the data.
        pairs: how many videos, one caption each; fewer if the split has fewer.
        figure: PNG to write.
        of: name of the model in errors.

    Returns the number of pairs and the measures by name. Raises InputError for a head without increments.
    """
    head = model.config.head
    if not HEADS[head].increments:
        raise InputError(f"{NO_INCREMENTS.format(head)}, so there is nothing to measure of {of}.")
    state = split_state(model, tokenizer, split, config, pairs)
    figures = pair_diagnostics(state)
    increment_figure(state, figure)
    return len(state.text), figures


def split_state(model: GareModel, tokenizer: Tokenizer, split: Split, config: Config, pairs: int) -> PairState:
    """Return the state of a split's first captioned videos and their first captions, as in evaluation."""
    captioned = [index for index, video in enumerate(split.videos) if video.captions][:pairs]
    return batch_state(
        model, make_batch(split, [(index, 0) for index in captioned], tokenizer, config, model.image_size)
    )


@torch.no_grad()
def batch_state(model: GareModel, batch: Batch, pairs: int | None = None) -> PairState:
    """Return the state of a batch's first pairs (all if None) without dropout; the model's mode is restored."""
    device, part = model.clip.logit_scale.device, slice(pairs)
    token_mask, frame_mask = batch.token_mask[part].to(device), batch.frame_mask[part].to(device)
    was_training = model.training
    model.eval()
    try:
        text, words, frames = encode_batch(model, batch, part)
        return observe(model, text, frames, frame_mask, words=words, word_mask=token_mask)
    finally:
        model.train(was_training)
