"""Captioned toy corpora of real video files; captions name the shape, colour, size and motion of objects.

They stand in for a benchmark when you have none; nothing else in the project knows that they are synthetic.
"""

from __future__ import annotations

from pipelines.synthetic.corpus import CorpusReport, write_corpus
from pipelines.synthetic.events import Difficulty

__all__ = ["CorpusReport", "Difficulty", "write_corpus"]
