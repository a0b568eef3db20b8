"""Settings of the data job: which frames are kept, at what size, how they are stored, and what is refused."""

from __future__ import annotations

from typing import Literal

from gare.config.base import Section, key, section


class LimitsConfig(Section):
    """What one video may cost before it is given up and recorded as such."""

    max_bytes: int = key(4 * 2**30, "largest source file", unit="bytes", gt=0)
    max_pixels: int = key(7680 * 4320, "largest declared frame area", unit="pixels", gt=0)
    max_seconds: float = key(6 * 3600.0, "longest source video", unit="seconds", gt=0)
    max_packets: int = key(2_000_000, "most packets of the video stream", gt=0)
    cpu_seconds: float = key(60.0, "processor time for one video, checked at every packet", unit="seconds", gt=0)


class PrepareConfig(Section):
    """The decode recipe; its digest is stored in every shard and shards of two recipes never mix."""

    max_frames: int = key(12, "frames stored per video", unit="frames", ge=1)
    policy: Literal["fps_linspace", "uniform"] = key(
        "fps_linspace", "candidates at candidate_fps thinned by linspace, or evenly over all frames"
    )
    candidate_fps: float = key(1.0, "candidates per second of video", unit="1/second", gt=0)
    short_side: int = key(224, "shortest side after resizing (bicubic, antialiased)", unit="pixels", ge=8)
    crop: int = key(224, "side of the centre square that is kept", unit="pixels", ge=8)
    storage: Literal["raw", "jpeg"] = key("raw", "exact and quick to read, or small")
    jpeg_quality: int = key(90, "quality of jpeg storage", ge=1, le=100)
    unit_videos: int = key(64, "manifest rows per work unit", unit="videos", ge=1)
    shard_bytes: int = key(256 * 2**20, "a unit's shard is closed once it holds this much", unit="bytes", ge=1)
    limits: LimitsConfig = section(LimitsConfig, "what one video may cost")
