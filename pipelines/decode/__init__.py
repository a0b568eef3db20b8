"""Decoding and sampling one video with PyAV, whatever the file turns out to be."""

from pipelines.decode.errors import KINDS, DecodeError
from pipelines.decode.video import DecodedVideo, decode_in_order, decode_video

__all__ = ["KINDS", "DecodeError", "DecodedVideo", "decode_in_order", "decode_video"]
