"""Exact factorised scoring (the method's section 6): the increment of a pair without a vector per pair.

With dropout off, D_ij lies in the span of a few vectors that depend on the context alone (a video's frames or a
text's words). ``factors`` holds what is computed once per context and per video, ``pairs`` what is left per pair,
``grid`` the blocks, ``dense`` the plain scoring of single pairs where float32 would not do, and ``video_index``
the gallery made of it.

Shapes: B texts, V videos, F frames, W words, D width. Inside a block the contexts are C sequences of L positions
and N is the other side (texts for frames, videos for words).
"""
