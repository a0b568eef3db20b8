"""Decoding and sampling one video with PyAV, whatever the file turns out to be."""

from pipelines.decode.errors import KINDS, NOTES, DecodeError
from pipelines.decode.job import DecodedVideo
from pipelines.decode.video import decode_in_order, decode_video

__all__ = ["KINDS", "NOTES", "DecodeError", "DecodedVideo", "decode_in_order", "decode_video"]
