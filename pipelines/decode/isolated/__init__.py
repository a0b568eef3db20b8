"""Decoding in processes of their own, so that a video that breaks one costs nothing but itself.

In the process that asks: ``decoder`` (what to use) and ``process``. In the processes it asks: ``decode_worker`` and
``fetching``, whose addresses and temporary copies the first one uses too. On both sides: ``messages``.
"""
