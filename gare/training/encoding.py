"""Encode a batch, all at once or in pieces whose activations are never in memory together.

The loss couples all pairs, so a large batch cannot be split like a classifier's. Instead the pieces are encoded without
gradients, the loss of the whole batch gives the gradient of each embedding, and the pieces are encoded again to
propagate it (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gare.config import Config
from gare.data.batches import Batch
from gare.model.gare import GareModel
from gare.training.numerics import tower_precision


@dataclass(frozen=True)
class Encoded:
    """Embeddings of this rank's pairs: text [b, D], words [b, W, D], frames [b, F, D], float32."""

    text: Tensor
    words: Tensor
    frames: Tensor

    def finite_rows(self) -> Tensor:
        """Return a mask [b] of pairs with finite embeddings, including words after the text's end."""
        made = self.text, self.words, self.frames
        return torch.stack([torch.isfinite(x.detach()).flatten(1).all(dim=1) for x in made]).all(dim=0)


def encode(model: GareModel, batch: Batch, config: Config, rows: slice = slice(None)) -> Encoded:
    """Encode some rows of a batch in the settings' precision."""
    device = model.clip.logit_scale.device
    ids, token_mask, mask = (x[rows].to(device) for x in (batch.token_ids, batch.token_mask, batch.frame_mask))
    with tower_precision(config.train, device):
        text, words = model.encode_texts(ids, token_mask)
        valid = None if batch.valid is None else sum(batch.valid[rows])
        frames = model.encode_clips(batch.frames[rows].to(device), mask, valid)
    if config.train.precision == "fp32":
        return Encoded(text, words, frames)
    return Encoded(text.float(), words.float(), frames.float())


def backward_through(
    model: GareModel, batch: Batch, config: Config, loss: Callable[[Encoded], Tensor]
) -> tuple[Tensor, Encoded]:
    """Add the gradients of ``loss`` of the encoded batch to all parameters; return the loss and the embeddings.

    ``train.chunk`` null encodes all at once. The gradients are otherwise the same, up to rounding.
    """
    pairs, chunk = len(batch.token_ids), config.train.chunk
    if chunk is None or chunk >= pairs:
        made = encode(model, batch, config)
        value = loss(made)
        torch.autograd.backward([value])
        return value.detach(), made
    replays = []
    with torch.no_grad():
        parts = []
        for rows in _pieces(pairs, chunk):
            replays.append(_Replay(model.clip.logit_scale.device))
            parts.append(encode(model, batch, config, rows))
    whole = Encoded(*(torch.cat([getattr(part, name) for part in parts]).requires_grad_() for name in _NAMES))
    del parts
    value = loss(whole)
    torch.autograd.backward([value])
    for rows, replay in zip(_pieces(pairs, chunk), replays, strict=True):
        with replay:
            again = encode(model, batch, config, rows)
        wanted = [(getattr(again, name), getattr(whole, name).grad) for name in _NAMES]
        used = [(made, gradient[rows]) for made, gradient in wanted if gradient is not None and made.requires_grad]
        if used:
            torch.autograd.backward([made for made, _ in used], [gradient for _, gradient in used])
    return value.detach(), whole


_NAMES = ("text", "words", "frames")


def _pieces(pairs: int, chunk: int) -> Iterator[slice]:
    for start in range(0, pairs, chunk):
        yield slice(start, min(start + chunk, pairs))


class _Replay:
    """A replay of the random numbers drawn after this was made: a CLIP may have dropout of its own."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self._devices)]

    def __enter__(self) -> None:
        self._now = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self._devices)]
        self._set(self._states)

    def __exit__(self, *exception: object) -> None:
        self._set(self._now)

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for device, state in zip(self._devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
