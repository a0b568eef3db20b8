"""Inspect a folder of ``gare prepare``, and check that its sources still give the same rows."""

from __future__ import annotations

from pipelines.dataset.inspection.contents import Contents, read_contents
from pipelines.dataset.inspection.summary import draw_sheet, leak_sentence, leaks, summarise
from pipelines.dataset.inspection.verify import Verdict, verify

__all__ = ["Contents", "Verdict", "draw_sheet", "leak_sentence", "leaks", "read_contents", "summarise", "verify"]
