"""Datasets of finished shards, also those that others made: their figures, and merging and cutting them."""

from __future__ import annotations

from pipelines.shard_tools.cuts import Cut, by_split, in_parts, of_ids, of_splits, whole
from pipelines.shard_tools.merge import merge
from pipelines.shard_tools.split import split
from pipelines.shard_tools.stat import stat
from pipelines.shard_tools.target import Made

__all__ = ["Cut", "Made", "by_split", "in_parts", "merge", "of_ids", "of_splits", "split", "stat", "whole"]
