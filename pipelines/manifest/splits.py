"""Which video is in which split: drawn by id, and never in two."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Mapping

from gare.common.errors import InputError
from gare.schema import TAKEN_FROM

TRAIN = "train"
DEV = "dev"
TEST = "test"
NAMED = 3


def carve(video_ids: list[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """Draw each video's split from its id and ``seed`` alone; what the shares leave over is train.

    Neither the order of the rows nor videos added later move a video to another split, so sizes are only about
    their shares. Raises InputError for shares that are none and for a split that would be empty.
    """
    if not shares or any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise InputError("Each carved split needs a share between 0 and 1, and together less than 1: dev=0.1,test=0.1.")
    if TRAIN in shares:
        raise InputError(f"{TRAIN} is what the carved splits leave over; give the shares of the others only.")
    drawn = [_draw(video_id, shares, seed) for video_id in video_ids]
    empty = [name for name in (*shares, TRAIN) if name not in drawn]
    if empty:
        raise InputError(
            f"Of {len(video_ids)} videos none falls into {', '.join(empty)}; try another --seed, or larger shares."
        )
    return drawn


def _draw(video_id: str, shares: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{video_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return TRAIN


def taken_from_train(attributes: Iterable[tuple[str, str]] | None) -> list[tuple[str, str]]:
    """The attributes of a dev video with the mark that it was taken out of train."""
    return [*((name, value) for name, value in attributes or () if name != TAKEN_FROM), (TAKEN_FROM, TRAIN)]


def check_disjoint(splits: Mapping[str, Collection[str]], where: str) -> None:
    """Raise InputError, naming ids, when a video is in two splits: what is trained on is no test."""
    for (one, ids), (other, others) in itertools.combinations(splits.items(), 2):
        there = set(others)
        shared = [video_id for video_id in ids if video_id in there]
        if shared:
            raise InputError(f"{where}: {some(shared)} in both {one} and {other}; a video may be in one split only.")


def some(video_ids: Collection[str]) -> str:
    """Name how many videos there are, and the first few of them, as the start of a sentence."""
    named = ", ".join(itertools.islice(video_ids, NAMED))
    if len(video_ids) == 1:
        return f"1 video ({named}) is"
    return f"{len(video_ids):,} videos ({named}{', ...' if len(video_ids) > NAMED else ''}) are"
