"""The one family of errors a user is meant to read.

A message is one sentence or two: what is wrong, where, and what to do. The front door prints it without a
traceback and exits with the class's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from gare.common.redact import sentence


class GareError(Exception):
    """Something the user can act on. ``result``: what a command found out all the same; ``--json`` prints it too.

    Secrets and control characters never get into its message, and foreign values do not make it endless.
    """

    exit_code = 1

    def __init__(self, message: str, *, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence(message))
        self.result = dict(result or {})

    def adding(self, more: str) -> Self:
        """The same error with ``more`` to say."""
        longer = type(self).__new__(type(self))
        vars(longer).update(vars(self))
        longer.args = (sentence(f"{self} {more}"),)
        return longer


class ConfigError(GareError):
    """A setting that cannot be used."""

    exit_code = 2


class InputError(GareError):
    """A file, folder or argument that cannot be used."""

    exit_code = 3


class StorageError(InputError):
    """Storage that fails at a read: of what lies there nothing is known, so nothing may be done again or removed."""


class RunError(GareError):
    """Work that started and could not be finished."""

    exit_code = 4
