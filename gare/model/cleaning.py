"""What is done to a text before it is cut into pieces."""

from __future__ import annotations

import html
import string
from typing import Literal

Cleaning = Literal["openai", "canonical", "lower", "none"]
"""``openai``, ``canonical``: as OpenAI's CLIP and SigLIP do. ``lower``: lower case alone, as SigLIP 2 does.

``none``: nothing, as MetaCLIP 2 does, and as all tokenizers were saved before it was recorded.
"""
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean(text: str) -> str:
    """A text as OpenAI's CLIP cleans it: broken Unicode repaired, HTML entities resolved twice, spaces, lower case."""
    # ftfy changes nothing of printable ASCII, which most captions are, and takes a hundred times as long to say so.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def canonical(text: str) -> str:
    """A text as SigLIP cleans it: lower case, without ASCII punctuation, words with one space between them."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())
