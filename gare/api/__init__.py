"""GARE as functions: ``gare.prepare``, ``train``, ``evaluate``, ``index``, ``search``, ...

The commands are options and printing over these functions. They raise GareError, end no process and install no signal
handler; notes, warnings and progress go to standard error (``gare.common.console``).
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import gare
from gare.common.errors import ConfigError, InputError
from gare.config import Config

P = ParamSpec("P")
R = TypeVar("R")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an OSError that names a file into an InputError, and a mistyped argument's name into a ConfigError."""
    arguments_of = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        for name in named.keys() - arguments_of.keys() - Config.model_fields.keys():
            near = difflib.get_close_matches(name, arguments_of, n=1, cutoff=0.75)
            if near:
                called = f"gare.{function.__name__}"
                raise ConfigError(f"{called} has no argument {name}. Did you mean {near[0]}?")
        try:
            return function(*arguments, **named)
        except OSError as error:
            if error.filename is None:
                raise
            raise InputError(f"Cannot use {os.fsdecode(error.filename)}: {error.strerror}.") from error

    return call


def refuse_namesakes() -> None:
    """Raise InputError if Python would find a foreign package pipelines or tune instead of ours; none of it is run."""
    home = Path(gare.__file__).resolve().parent.parent
    for name in ("pipelines", "tune"):
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent != home / name:
            raise InputError(
                f"{spec.origin} is found instead of this program's own package {name}; take its folder off "
                "PYTHONPATH, uninstall it, or start from another folder."
            )
