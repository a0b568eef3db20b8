"""Match nodes of a cluster by labels, under Ray's rules and without Ray."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

ROLE = "gare.role"
"""The label that says what a node is for."""

TRAIN, DECODE = "train", "decode"
NODE_ID = "ray.io/node-id"
"""The label with its id, which every node has."""

Selector = Mapping[str, str]
"""Conditions on a node's labels, all of which must hold: ``value``, ``!value``, ``in(a,b)`` or ``!in(a,b)`` by key."""

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_KEY = re.compile(rf"(?:(?P<prefix>{_NAME}(?:\.{_NAME})*)/)?{_NAME}")
_VALUE = re.compile(rf"(?P<other>!?)(?:in\((?P<several>{_NAME}(?:,{_NAME})*)\)|(?P<one>{_NAME}))")
_LONGEST_PREFIX = 253


@dataclass(frozen=True)
class Node:
    """A living node: its resources by Ray's names, its labels and its id."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


Nodes = Sequence[Node]


def matches(labels: Mapping[str, str], selector: Selector) -> bool:
    """Return whether a selector accepts a node with these labels; a missing label equals no value."""
    for key, wanted in selector.items():
        found = _VALUE.fullmatch(wanted)
        if found is None:
            raise ValueError(f"{wanted!r} selects no labels")
        values = (found["several"] or found["one"]).split(",")
        if (labels.get(key) in values) == bool(found["other"]):
            return False
    return True


def selected(nodes: Iterable[Node], selector: Selector) -> list[Node]:
    """Return the nodes whose labels match."""
    return [node for node in nodes if matches(node.labels, selector)]


def wrong(selector: Selector) -> str | None:
    """Return the reason that a selector cannot be used; None if it can.

    The rules are Ray's, except that a space after a comma is refused too, which Ray counts as part of the value.
    """
    for key, value in selector.items():
        named = _KEY.fullmatch(key)
        if named is None or len(named["prefix"] or "") > _LONGEST_PREFIX:
            return f"{key!r} is not a label of a node; labels look like gare.role or ray.io/market-type"
        if not _VALUE.fullmatch(value):
            ways = "write value, !value, in(a,b) or !in(a,b), without spaces"
            return f"{value!r} is not a condition on the label {key}; {ways}"
    return None


def in_words(selector: Selector) -> str:
    """Format a selector for a sentence, as ``--set`` accepts it; a long list of nodes is shortened."""
    parts = [f"{key}: {value if len(value) <= 60 else value[:40] + '...)'}" for key, value in selector.items()]
    return "{" + ", ".join(parts) + "}"


def usable_cpus() -> int:
    """Count the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
