"""Decode in separate processes, so that a video that crashes the decoder harms nothing else.

The parent process runs ``decoder`` (the interface) and ``process``. The children run ``decode_worker`` and
``fetching``; the parent also uses the latter's addresses and temporary copies. Both sides use ``messages``.
"""
