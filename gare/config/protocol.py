"""Settings of the protocol: what is kept out of training, and how the checkpoint is chosen."""

from __future__ import annotations

from typing import Literal

from gare.config.base import Section, key


class ProtocolConfig(Section):
    """What a run may learn from and what it may look at. The test split is neither, whatever is set here."""

    dev: Literal["held_out", "none"] = key(
        "held_out",
        "the dev split is kept out of training and chooses the checkpoint; none: what dev had taken from train is "
        "trained on too, nothing is evaluated and the last epoch is the checkpoint",
    )
