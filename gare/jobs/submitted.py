"""Parse a command line here, with the places it names, to run it elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gare.common.errors import ConfigError, InputError
from gare.jobs.places import Place, setting_places

NOT_THERE = frozenset({"submit", "jobs", "logs", "stop"})
CONFIGS = frozenset({"config_file", "diff", "section"})
OUTPUTS = frozenset({"out", "sheet"})
PATHS = frozenset({"manifest", "shards", "folder", "folders", "checkpoint", "resume"})
"""Arguments for a path or an address, which therefore do not use click's Path."""

RUNTIME_COMMANDS = frozenset({"train", "sweep"})
"""Commands that read and write the places in the settings; other commands have options for them."""

FOLDER_THERE = "submitted"
"""Folder of the package for the config files."""


@dataclass(frozen=True)
class Line:
    """A command line: its name, its words, and the places it names. ``configs``: name in the package -> file here."""

    name: str
    words: list[str]
    places: list[Place]
    configs: dict[str, Path]


def understand(words: Sequence[str], program: click.Command) -> Line:
    """Parse a command of ``program`` (gare) without running it; mistakes give the same errors as running it here.

    In the returned words, config files have their names in the package.
    """
    words = list(words)
    words = words[1:] if words[:1] == ["gare"] else words
    if not words:
        raise InputError("Name the command to submit, such as gare submit -- train configs/demo.yaml.")
    try:
        name, context = _parse(words, program)
    except click.exceptions.Exit as told:  # its --help was requested
        sys.exit(told.exit_code)
    except click.ClickException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "gare")
        raise ConfigError(f"{error.format_message().rstrip('.')}. {path} --help says more.") from None
    if name in NOT_THERE:
        raise InputError(f"gare {name} talks to a cluster and cannot run as a job of one; run it here.")
    places = list(_arguments(context))
    configs: dict[str, Path] = {}
    for place in places:
        if place.role == "config":
            configs[_name_there(place.value, configs)] = Path(place.value)
    places += _settings(name, context)
    return Line(name, _renamed(words, configs), places, configs)


def _parse(words: list[str], command: click.Command) -> tuple[str, click.Context]:
    rest, names, parent = words, ["gare"], None
    while isinstance(command, click.Group):
        parent = click.Context(command, info_name=names[-1], parent=parent)
        if not rest:
            raise click.UsageError("a command of it is missing", ctx=parent)
        found = command.get_command(parent, rest[0])
        if found is None:
            raise click.UsageError(f"No such command {rest[0]!r}.", ctx=parent)
        command, names, rest = found, [*names, rest[0]], rest[1:]
    return names[1], command.make_context(names[-1], list(rest), parent=parent)


def _arguments(context: click.Context) -> Iterator[Place]:
    for parameter in context.command.params:
        given: Any = context.params.get(parameter.name or "")
        if given is None or not (isinstance(parameter.type, click.Path) or parameter.name in PATHS | OUTPUTS | CONFIGS):
            continue
        label = parameter.opts[0] if isinstance(parameter, click.Option) else (parameter.human_readable_name)
        config = parameter.name in CONFIGS or (context.command.name == "config" and parameter.name == "file")
        role = "config" if config else "output" if parameter.name in OUTPUTS else "input"
        for value in given if isinstance(given, list | tuple) else [given]:
            yield Place(label, os.fspath(value), role)  # type: ignore[arg-type]


def _settings(name: str, context: click.Context) -> list[Place]:
    """Return the places in a command's settings, which are read here so that mistakes show at once."""
    from gare.config.tree import load_config

    overrides = tuple(context.params.get("overrides") or ())
    file = context.params.get("config_file") or context.params.get("file")
    if "overrides" not in context.params or (name == "config" and context.params.get("schema")):
        return []
    if name not in {"train", "sweep", "prepare", "config"} or context.params.get("resume") is not None:
        return []
    sweep = context.params.get("section")
    config = load_config(file, overrides, sweep)
    if name not in RUNTIME_COMMANDS:
        return []
    if (shards := context.params.get("shards")) is not None:
        config = load_config(file, (*overrides, f"runtime.shards={shards}"), sweep)
    places = setting_places(config)
    if shards is not None:
        places = [place for place in places if place.label != "runtime.shards"]  # already included as --shards
    return [place for place in places if place.role != "output" or not context.params.get("dry_run")]


def _name_there(value: str, taken: dict[str, Path]) -> str:
    path = Path(os.path.relpath(value)) if not Path(value).is_absolute() else Path(Path(value).name)
    plain = path.as_posix() if ".." not in path.parts else path.name
    name = f"{FOLDER_THERE}/{plain}"
    for number in range(2, len(taken) + 3):
        if taken.get(name) in (None, Path(value)):
            break
        name = f"{FOLDER_THERE}/{number}/{plain}"
    return name


def _renamed(words: list[str], configs: dict[str, Path]) -> list[str]:
    there = {str(path): name for name, path in configs.items()}

    def rename(word: str) -> str:
        option, equals, value = word.partition("=")
        if option.startswith("--") and equals and option != "--set" and _key(value) in there:
            return f"{option}={there[_key(value)]}"
        return there.get(_key(word), word)

    return [rename(word) for word in words]


def _key(word: str) -> str:
    return str(Path(word)) if word else word
