"""Copies of shards on this node: training maps files into memory, which an object store cannot provide."""

from gare.data.cache.copies import damaged, hold
from gare.data.cache.entries import Copy, Held, entries, evict
from gare.data.cache.room import CACHE_VARIABLE, Cache, cache_folder

__all__ = ["CACHE_VARIABLE", "Cache", "Copy", "Held", "cache_folder", "damaged", "entries", "evict", "hold"]
