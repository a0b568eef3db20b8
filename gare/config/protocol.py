"""Settings of the protocol: what is kept out of training, and how the checkpoint is chosen."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from gare.config.base import Section, key

_TEST = re.compile(r"(?<![a-z])(?:\d+k|dev|val|mini)?test(?:s|ing)?(?![a-z])")


def names_test(split: str) -> bool:
    """Whether a split is a test split by its name: test, Test, test_1k, jsfusion-test, 1ktest, devtest; not latest."""
    return _TEST.search(unicodedata.normalize("NFKC", split).casefold()) is not None


class ProtocolConfig(Section):
    """What a run may learn from, and what it may look at."""

    dev: Literal["held_out", "none"] = key(
        "held_out",
        "the dev split is kept out of training and chooses the checkpoint; none: what dev had taken from train is "
        "trained on too, nothing is evaluated and the last epoch is the checkpoint",
    )
    test: Literal["held_out", "used"] = key(
        "held_out",
        "no split with test in its name may be data.train_split or data.dev_split; used: it may, and the run, its "
        "sweep and its evaluations say that its figures on test are no estimate for new videos",
    )
