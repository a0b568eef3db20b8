"""The family of errors that users are meant to read.

A message is one or two sentences: what is wrong, where, and what to do. The command line prints it without a traceback
and exits with the class's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from gare.common.redact import sentence


class GareError(Exception):
    """An error that the user can fix. ``result``: what a command found out anyway; ``--json`` prints it too.

    The message never contains secrets or control characters, and long values in it are shortened.
    """

    exit_code = 1

    def __init__(self, message: str, *, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence(message))
        self.result = dict(result or {})

    def adding(self, more: str) -> Self:
        """Return the same error with ``more`` at the end."""
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
    """A failed read from storage: the state there is unknown, so nothing may be redone or removed."""


class RunError(GareError):
    """Work that started and could not be finished."""

    exit_code = 4
