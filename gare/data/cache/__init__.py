"""Copies of shards on this node: training maps files into memory, which an object store cannot give."""

from gare.data.cache.copies import hold
from gare.data.cache.entries import Copy, Held, entries, evict
from gare.data.cache.place import CACHE_VARIABLE, Cache, cache_folder
from gare.data.cache.verify import damaged

__all__ = ["CACHE_VARIABLE", "Cache", "Copy", "Held", "cache_folder", "damaged", "entries", "evict", "hold"]
