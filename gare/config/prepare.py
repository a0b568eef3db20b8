"""Settings of the data job: which frames are kept, at what size, how they are stored, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from gare.config.base import Section, key, section
from gare.config.decoders import DECODERS, DEFAULT

if TYPE_CHECKING:
    DecoderName = str
else:
    DecoderName = Literal[tuple(DECODERS)]


class LimitsConfig(Section):
    """Limits to the cost of one video; a video that exceeds one is recorded as failed."""

    max_bytes: int = key(4 * 2**30, "largest source file", unit="bytes", gt=0)
    max_pixels: int = key(7680 * 4320, "largest declared frame area", unit="pixels", gt=0)
    max_seconds: float = key(6 * 3600.0, "longest source video", unit="seconds", gt=0)
    max_packets: int = key(2_000_000, "most packets of the video stream", gt=0)
    cpu_seconds: float = key(60.0, "processor time for one video, checked at every packet", unit="seconds", gt=0)
    wait_seconds: float = key(
        600.0, "waiting for storage or the network for one video; not for a processor", unit="seconds", gt=0
    )
    memory_bytes: int = key(
        2**30, "memory for one video, on top of what the decoder takes by itself", unit="bytes", ge=64 * 2**20
    )
    max_aspect: float = key(
        10.0, "longest side over the shortest, of videos that are stored uncropped (prepare.crop null)", ge=1
    )


BEFORE: Final[Mapping[str, Any]] = {"square_pixels": False}
"""Settings that a stored recipe may lack, with the earlier behaviour."""
UNSAID: Final[Mapping[str, Any]] = {"decoder": DEFAULT}
"""Later settings that a stored recipe omits at this value, which changes nothing."""


class PrepareConfig(Section):
    """The decode recipe; its digest is stored in every shard, and shards of two recipes never mix."""

    decoder: DecoderName = key(
        DEFAULT,
        "what decodes the videos: pyav, or torchcodec, which is an extra to install and rounds colours otherwise",
    )
    max_frames: int = key(12, "frames stored per video", unit="frames", ge=1)
    policy: Literal["fps_linspace", "uniform", "segment_middle", "all_candidates", "timestamps"] = key(
        "fps_linspace",
        "candidates at candidate_fps thinned by linspace; linspace over all frames; the middle of each of max_frames "
        "equal segments; the first max_frames candidates; or the frames shown at timestamps_s",
    )
    candidate_fps: float = key(1.0, "candidates per second of video", unit="1/second", gt=0)
    timestamps_s: list[Annotated[float, Field(ge=0)]] | None = key(
        None, "moments of policy timestamps, from the first frame of the clip", unit="seconds"
    )
    short_side: int = key(224, "shortest side after resizing (bicubic, antialiased)", unit="pixels", ge=8)
    crop: int | None = key(
        224, "side of the centre square that is kept; null keeps the whole resized frame", unit="pixels", ge=8
    )
    square_pixels: bool = key(
        True, "stretch videos whose pixels are not square, as players do; false stores the pixels as they are"
    )
    resize: Literal["pil", "swscale"] = key("pil", "as PIL resizes, or faster with an error of about a grey level")
    storage: Literal["raw", "jpeg"] = key("raw", "exact and quick to read, or small")
    jpeg_quality: int = key(90, "quality of jpeg storage", ge=1, le=100)
    unit_videos: int = key(64, "manifest rows per work unit", unit="videos", ge=1)
    shard_bytes: int = key(256 * 2**20, "a unit's shard is closed once it holds this much", unit="bytes", ge=1)
    limits: LimitsConfig = section(LimitsConfig, "what one video may cost")

    @property
    def side(self) -> int:
        """Return the shortest side of the stored frames, in pixels; both sides if they are cropped."""
        return self.crop or self.short_side

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.resize not in DECODERS[self.decoder].resizes:
            raise ValueError(
                f"prepare.resize {self.resize} does not go with prepare.decoder {self.decoder}; "
                f"set prepare.resize={DECODERS[self.decoder].resizes[0]}"
            )
        count = len(self.timestamps_s or [])
        if self.policy == "timestamps" and not count:
            raise ValueError("prepare.policy is timestamps, so prepare.timestamps_s must list at least one moment")
        if self.policy != "timestamps" and self.timestamps_s is not None:
            raise ValueError(f"prepare.timestamps_s is not used by prepare.policy {self.policy}; leave it out")
        if count > self.max_frames:
            raise ValueError(
                f"prepare.timestamps_s lists {count} moments, more than prepare.max_frames {self.max_frames}"
            )
        return self
