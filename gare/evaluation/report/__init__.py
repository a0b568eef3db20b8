"""Write the report page of an evaluation: one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from gare.common.files import write_text
from gare.data.shards import Split
from gare.evaluation.measure import Measurement
from gare.evaluation.report.content import Subject, gather
from gare.evaluation.report.page import render

REPORT_FILE = "report.html"

__all__ = ["REPORT_FILE", "Subject", "write_report"]


def write_report(path: Path, subject: Subject, measured: Measurement, split: Split, *, hardest: int) -> None:
    """Write the page of a measurement of a split, with pictures of the ``hardest`` queries, atomically."""
    write_text(path, render(gather(subject, measured, split, hardest=hardest)))
