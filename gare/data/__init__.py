"""Shards to batches: captions, tokens, padding."""
