"""The texts that the first stage of an index is fitted on and measured with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

ANCHORS, HELD_OUT = 2048, 512
"""Texts to fit the stage on, and others to measure its recall with; half of each are fragments."""

FEWEST_TEXTS = 64
"""With fewer captions, there is no stage."""


@dataclass(frozen=True)
class Anchors:
    """``fit``: texts to fit the stage on; ``captions``, ``fragments``: other texts to measure it with."""

    fit: list[str]
    captions: list[str]
    fragments: list[str]

    @property
    def held_out(self) -> list[str]:
        """The texts to measure with, captions first."""
        return [*self.captions, *self.fragments]

    @classmethod
    def of(cls, captions: Iterable[str], seed: int = 0) -> Anchors | None:
        """Draw texts from any number of captions, keeping only the drawn ones in memory; return None for too few."""
        random = np.random.default_rng(seed)
        wanted = (ANCHORS + HELD_OUT) // 2
        drawn: dict[str, bytes] = {}  # the texts of the lowest hashes: a sample of the distinct ones
        limit, salt = b"\xff" * 8, seed.to_bytes(8)
        for text in captions:
            place = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()
            if place < limit and text.strip():
                drawn[text] = place
                if len(drawn) >= 2 * wanted:
                    drawn = dict(sorted(drawn.items(), key=lambda item: item[1])[:wanted])
                    limit = max(drawn.values())
        texts = [text for text, _ in sorted(drawn.items(), key=lambda item: item[1])][:wanted]
        if len(texts) < FEWEST_TEXTS:
            return None
        kept = len(texts) * HELD_OUT // (ANCHORS + HELD_OUT)
        fit, held = texts[kept:], texts[:kept]
        return cls(fit + [_fragment(t, random) for t in fit], held, [_fragment(t, random) for t in held])


def _fragment(text: str, random: np.random.Generator) -> str:
    """Return some neighbouring words of a caption, at most half of them."""
    words = text.split()
    count = int(random.integers(1, max(1, len(words) // 2) + 1))
    start = int(random.integers(0, len(words) - count + 1))
    return " ".join(words[start : start + count])
