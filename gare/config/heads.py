"""The pair heads, which score a text and a video. A new head is a file in ``gare/scoring`` and a row here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """``source``: module and class. ``reads``: the settings of ``model`` that this head uses.

    ``increments``: True if it makes the increments that the regularisers act on. ``plain_frames``: True if, with
    ``model.temporal_layers`` 0, it takes frames as CLIP embeds them, without frame positions.
    """

    source: str
    reads: tuple[str, ...]
    increments: bool = False
    plain_frames: bool = True


HEADS = {
    "gare": Head(
        "gare.scoring.increment.head:GareHead",
        ("pool_temperature", "increment", "corrected", "context", "gap_sign", "query", "video_base", "dropout"),
        increments=True,
        plain_frames=False,
    ),
    "xpool": Head("gare.scoring.xpool:XPoolHead", ("attention_heads", "dropout")),
    "mean_pool": Head("gare.scoring.mean_pool:MeanPoolHead", ()),
}
OF_HEADS = frozenset(name for head in HEADS.values() for name in head.reads)
"""Settings of ``model`` that only some heads use."""
NO_INCREMENTS = "model.head {} makes no increments"
