"""What is done to a text before it is cut into pieces."""

from __future__ import annotations

import html
from typing import Literal

Cleaning = Literal["openai", "none"]
"""``openai``: as OpenAI's CLIP does. ``none``: nothing, as all tokenizers were saved before it was recorded."""


def clean(text: str) -> str:
    """A text as OpenAI's CLIP cleans it: broken Unicode repaired, HTML entities resolved twice, spaces, lower case."""
    # ftfy changes nothing of printable ASCII, which most captions are, and takes a hundred times as long to say so.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
