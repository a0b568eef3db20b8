"""The decoders of ``gare prepare``, which turn videos into frames. A new one is a file and a row here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decoder:
    """``source``: module and class. ``extra``: the optional dependency to install, which is also its package.

    ``resizes``: the values of ``prepare.resize`` that it supports.
    """

    source: str
    extra: str | None = None
    resizes: tuple[str, ...] = ("pil", "swscale")


DECODERS = {
    "pyav": Decoder("pipelines.decode.planned:Planned"),
    "torchcodec": Decoder("pipelines.decode.with_torchcodec:WithTorchcodec", "torchcodec", ("pil",)),
}
DEFAULT = "pyav"
"""The decoder of datasets from before there was a choice."""
