"""Manifest to shards: what is to be done, one work unit after the other, on Ray or in this process."""
