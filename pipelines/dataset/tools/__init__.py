"""Work with finished datasets, including other people's: show their figures, merge and cut them."""

from __future__ import annotations

from pipelines.dataset.tools.check import stat
from pipelines.dataset.tools.merge import merge
from pipelines.dataset.tools.split import Cut, by_split, in_parts, of_ids, of_splits, split, whole
from pipelines.dataset.tools.target import Made

__all__ = ["Cut", "Made", "by_split", "in_parts", "merge", "of_ids", "of_splits", "split", "stat", "whole"]
