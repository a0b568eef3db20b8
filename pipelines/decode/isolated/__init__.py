"""Decode in separate processes, so that a video that crashes the decoder harms nothing else.

The parent process runs ``decoder`` (the interface) and ``process``. The children run ``decode_worker`` and
``fetching``; ``decoder`` also uses the addresses and temporary copies of ``fetching``. Both sides use ``messages``.
"""
