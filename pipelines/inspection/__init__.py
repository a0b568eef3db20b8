"""What a folder of ``gare prepare`` holds, and whether that is still what its sources give."""

from __future__ import annotations

from pipelines.inspection.contents import Contents, read_contents
from pipelines.inspection.leaks import leak_sentence, leaks
from pipelines.inspection.sheet import draw_sheet
from pipelines.inspection.summary import summarise
from pipelines.inspection.verify import Verdict, verify

__all__ = ["Contents", "Verdict", "draw_sheet", "leak_sentence", "leaks", "read_contents", "summarise", "verify"]
