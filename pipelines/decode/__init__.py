"""Decode and sample a video file with PyAV, however broken it may be."""

from pipelines.decode.clip_job import Clip, DecodedVideo
from pipelines.decode.errors import KINDS, NOTES, DecodeError
from pipelines.decode.video import decode_clips, decode_in_order, decode_video

__all__ = ["KINDS", "NOTES", "Clip", "DecodeError", "DecodedVideo", "decode_clips", "decode_in_order", "decode_video"]
