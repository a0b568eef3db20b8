"""Decoding in processes of their own, so that a video that breaks one costs nothing but itself.

In the process that asks: ``decoder`` (what to use), ``process``, ``scratch``. In the processes that are asked:
``decode_worker``, ``fetch_worker``, ``serving``, ``limits``. Both sides: ``messages``, ``addresses``.
"""
