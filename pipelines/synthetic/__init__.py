"""A captioned toy corpus of real video files: an object's shape, colour, size and motion, told in words.

It stands in for a benchmark where none can be had; nothing else in the project knows that it is synthetic.
"""

from __future__ import annotations

from pipelines.synthetic.corpus import CorpusReport, write_corpus

__all__ = ["CorpusReport", "write_corpus"]
