"""The parts of ``decoding.py``: the decoders it compares and the clips it makes."""
