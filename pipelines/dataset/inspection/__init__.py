"""Inspect a folder of ``gare prepare``, and check that its sources still give the same rows."""
