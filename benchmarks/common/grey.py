"""A decoder that does not decode, to measure the data job's other costs."""

from __future__ import annotations

import numpy as np

from pipelines.decode.clip_job import DecodedVideo
from pipelines.decode.isolated.decoder import Decoded

TINY = 8


def grey_video(uri: str) -> Decoded:
    """Return one small grey picture for any address, at once."""
    video = DecodedVideo(
        frames=[np.full((TINY, TINY, 3), 128, np.uint8)],
        timestamps_s=[0.0],
        codec="none",
        width=TINY,
        height=TINY,
        fps=None,
        duration_s=None,
        notes=[],
    )
    return Decoded(video, len(uri), "0" * 64, 1)
