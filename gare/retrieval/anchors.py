"""The texts that the first stage of an index is fitted on and measured with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

import numpy as np

ANCHORS, HELD_OUT = 2048, 512
"""Texts to fit the stage on, and others to measure its recall with; half of each are fragments."""

STRANGE = 512
"""Sentences of made-up words to fit the stage on, at most a quarter as many as others: it holds for new words too."""

FEWEST_TEXTS = 64
"""With fewer captions, there is no stage."""

SYLLABLES = tuple(a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "ist", "ock"))


@dataclass(frozen=True)
class Anchors:
    """``fit``, ``strange``: texts to fit the stage on; ``captions``, ``fragments``: other texts to measure it with.

    ``strange``: sentences of made-up words.
    """

    fit: list[str]
    captions: list[str]
    fragments: list[str]
    strange: list[str] = field(default_factory=list)

    @property
    def fitted(self) -> list[str]:
        """The texts to fit the stage on."""
        return [*self.fit, *self.strange]

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
        fragments, of_held = ([fragment(text, random) for text in some] for some in (fit, held))
        strange = [_made_up(random) for _ in range(min(STRANGE, len(fit) // 2))]
        return cls(fit + fragments, held, of_held, strange)

    def unknown_words(self, texts: Iterable[str]) -> list[float]:
        """Return the share of each text's words that no caption or fragment of the fit has."""
        return [sum(word not in self._words for word in words) / max(1, len(words)) for words in map(_words, texts)]

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(word for text in self.fit for word in _words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _made_up(random: np.random.Generator) -> str:
    """Return a sentence of one to six made-up words."""
    words = range(int(random.integers(1, 7)))
    return " ".join("".join(random.choice(SYLLABLES, int(random.integers(1, 4)))) for _ in words)


def fragment(text: str, random: np.random.Generator) -> str:
    """Return some neighbouring words of a caption, at most half of them."""
    words = text.split()
    count = int(random.integers(1, max(1, len(words) // 2) + 1))
    start = int(random.integers(0, len(words) - count + 1))
    return " ".join(words[start : start + count])
