"""Findings of checks; a check that raises is itself a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from gare.common.redact import redact

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One row of the table: the check, its state, what it found, and how to fix it."""

    check: str
    state: State
    says: str
    fix: str = ""


Check = Callable[[], Finding]


def ok(check: str, says: str) -> Finding:
    """Make a finding without a problem."""
    return Finding(check, "ok", says)


def warn(check: str, says: str, fix: str) -> Finding:
    """Make a finding of a risk, or of something that slows work down."""
    return Finding(check, "warn", says, fix)


def fail(check: str, says: str, fix: str) -> Finding:
    """Make a finding of something that will not work."""
    return Finding(check, "fail", says, fix)


def examine(checks: Iterable[tuple[str, Check]]) -> list[Finding]:
    """Run named checks; one that raises becomes a failed finding with its reason."""
    return [_guarded(name, check) for name, check in checks]


def _guarded(name: str, check: Check) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - finding faults is the purpose
        first = redact((str(error).strip() or "no message").splitlines()[0])
        return fail(name, f"the check itself broke: {type(error).__name__}: {first}", "fix what it names")
