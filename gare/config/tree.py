"""Load, override, describe and compare the tree by its dotted keys."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from gare.common.errors import ConfigError
from gare.common.redact import shown
from gare.config import Config, yaml
from gare.config.base import Section
from gare.config.experiment import names_test
from gare.config.prepare import BEFORE

LONGEST_KEY = 200

Source = Config | Mapping[str, Any] | str | os.PathLike[str] | None
"""A source of settings: a tree, plain values (nested, or by dotted key), a YAML file, or None for the defaults."""

Overrides = Mapping[str, Any] | Sequence[str]
"""Settings that take precedence: values by dotted key or nested in sections, or texts such as ``train.epochs=3``."""


@dataclass(frozen=True)
class KeyDoc:
    """One documented setting."""

    key: str
    type: str
    unit: str
    default: Any
    meaning: str


def load_config(
    source: Source = None, overrides: Overrides = (), sweep: str | os.PathLike[str] | None = None
) -> Config:
    """Resolve the tree: a source of settings (defaults where it is silent) with overrides, later ones winning.

    Args:
        source: YAML file, values, another tree, or None for the defaults.
        overrides: values by dotted key or by section, or ``a.b=c`` texts.
        sweep: a YAML file that holds only the section sweep, which replaces that of ``source``.

    Raises ConfigError naming the key, what is wrong with it and the nearest valid key for a typo.
    """
    values, where = _read_source(source)
    if sweep is not None:
        values = {**values, "sweep": _sweep_section(Path(sweep))}
    for dotted, value in parse_overrides(overrides).items():
        values = with_value(values, dotted, value)
    if source is None and overrides:
        where = "--set"
    return build(values, where)


def _read_source(source: Source) -> tuple[Mapping[str, Any], str]:
    """Return the plain values of a source, and its name in errors."""
    if source is None or isinstance(source, Mapping):
        values: Mapping[str, Any] = {}
        for dotted, value in _spread(source or {}):
            values = with_value(values, dotted, value)
        return values, "the settings"
    if isinstance(source, Config):
        return source.model_dump(mode="json"), "the settings"
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(
            f"The settings are of type {type(source).__name__}; give a YAML file, a dict of settings or a Config."
        )
    return yaml.read(Path(source)), os.fspath(source)


def parse_overrides(overrides: Overrides) -> dict[str, Any]:
    """Return plain values by dotted key; ConfigError for an unknown setting."""
    if isinstance(overrides, str):
        overrides = [overrides]
    if not isinstance(overrides, Mapping):
        texts = overrides if isinstance(overrides, Iterable) else [overrides]
        return dict(parse_override(text) for text in texts)
    found = dict(_spread(overrides))
    for dotted in found:
        check_key(dotted)
    return found


def _spread(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of all settings in a mapping of dotted keys, sections or both."""
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        section = any(key.startswith(f"{dotted}.") for key in _known_keys())
        # Of an unknown section the keys say more about what was meant than its name.
        if isinstance(value, Mapping) and (section or (value and dotted not in _known_keys())):
            yield from _spread(value, f"{dotted}.")
        else:
            yield dotted, _plain(value)


def _plain(value: Any) -> Any:
    """Return a value of Python as YAML would hold it: paths as text, tuples as lists, scalars of NumPy as numbers."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _sweep_section(path: Path) -> Any:
    values = yaml.read(path)
    if set(values) != {"sweep"}:
        others = ", ".join(sorted(map(str, set(values) - {"sweep"}))) or "nothing"
        raise ConfigError(f"{path} holds {others}; a sweep file holds the section sweep, and nothing else.")
    build(values, str(path))  # so that errors name this file
    return values["sweep"]


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=c`` into its dotted key and its YAML 1.2 value; ConfigError for an unknown setting."""
    dotted, value = split_override(text)
    check_key(dotted)
    return dotted, value


def split_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=c`` into key and YAML 1.2 value, whatever the key."""
    if not isinstance(text, str):
        raise ConfigError(f"An override is {shown(text)}; give values by key, or texts such as train.epochs=3.")
    dotted, equals, raw = text.partition("=")
    dotted = dotted.strip()
    if not equals or not dotted:
        raise ConfigError(f"--set {shown(text)} is not of the form key=value, such as --set train.epochs=3.")
    return dotted, yaml.parse(raw, f"--set {dotted}")


def build(values: Mapping[str, Any], where: str = "the settings") -> Config:
    """Validate plain values as the tree."""
    check_keys(values, where)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None


def build_saved(values: Mapping[str, Any], where: str = "the settings") -> Config:
    """Validate a whole tree that this software saved, in an earlier version too.

    Without ``protocol.test``, any split could choose the checkpoint: if that was a test split, the value becomes used.
    ``BEFORE`` fills in what ``prepare`` lacks.
    """
    if isinstance(values.get("prepare"), Mapping):
        values = {**values, "prepare": {**BEFORE, **values["prepare"]}}
    protocol, data = values.get("protocol", {}), values.get("data", {})
    if isinstance(protocol, Mapping) and isinstance(data, Mapping) and "test" not in protocol:
        used = any(names_test(str(data.get(name, ""))) for name in ("train_split", "dev_split"))
        values = {**values, "protocol": {**protocol, "test": "used"}} if used else values
    return build(values, where)


def load_saved(path: str | Path) -> Config:
    """Load settings that this software saved in a YAML file; ConfigError as in ``load_config``."""
    return build_saved(yaml.read(Path(path)), str(path))


def with_overrides(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of ``config`` with dotted keys set to plain values, validated as a whole."""
    values = config.model_dump(mode="json")
    for dotted, value in changes.items():
        check_key(dotted)
        values = with_value(values, dotted, value)
    return build(values)


def with_value(values: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """Return a copy of a nested mapping with one dotted key set."""
    head, _, rest = dotted.partition(".")
    copy = dict(values)
    if rest:
        inner = copy.get(head)
        copy[head] = with_value(inner if isinstance(inner, Mapping) else {}, rest, value)
    else:
        copy[head] = value
    return copy


def describe() -> list[KeyDoc]:
    """List every setting of the tree, in order."""
    return list(_describe(Config, ""))


def flatten(config: Config) -> dict[str, Any]:
    """Return dotted key -> plain value, for every setting."""
    values = config.model_dump(mode="json")
    return {key: _get(values, key) for key in _known_keys()}


def by_dotted_key(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return dotted key -> value of any nested mapping, whose keys are below ``prefix``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= by_dotted_key(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def diff(left: Config, right: Config) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (left, right) wherever two trees differ."""
    a, b = flatten(left), flatten(right)
    return {name: (a[name], b[name]) for name in a if a[name] != b[name]}


def to_yaml(config: Config) -> str:
    """Return the whole resolved tree as YAML that ``load_config`` accepts."""
    return yaml.dump(config.model_dump(mode="json"))


def check_key(dotted: str) -> None:
    """Refuse a dotted key that is not a setting, suggesting the nearest one."""
    known = _known_keys()
    if dotted in known:
        return
    if len(dotted) > LONGEST_KEY:
        raise ConfigError(f"There is no setting {shown(dotted)}. gare config --schema lists every key.")
    if any(name.startswith(dotted + ".") for name in known):
        raise ConfigError(f"{dotted} is a section, not a setting; set one of its keys (gare config --schema).")
    near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
    if not near:
        leaf = {name.rpartition(".")[2]: name for name in known}
        near = [leaf[m] for m in difflib.get_close_matches(dotted.rpartition(".")[2], list(leaf), n=1, cutoff=0.6)]
    hint = f" Did you mean {near[0]}?" if near else " gare config --schema lists every key."
    raise ConfigError(f"There is no setting {dotted}.{hint}")


@functools.cache
def _known_keys() -> tuple[str, ...]:
    return tuple(doc.key for doc in describe())


def check_keys(values: Mapping[str, Any], where: str) -> None:
    """Refuse unknown keys anywhere in a nested mapping."""
    for dotted in _paths(values, Config, ""):
        try:
            check_key(dotted)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def _paths(values: Mapping[str, Any], kind: type[Section], prefix: str) -> Iterable[str]:
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        field = kind.model_fields.get(str(name))
        inner = field.annotation if field is not None else None
        if isinstance(inner, type) and issubclass(inner, Section):
            if value is None:
                raise ConfigError(f"The section {dotted} is empty; give it keys or leave it out.")
            if not isinstance(value, Mapping):
                raise ConfigError(f"{dotted} is a section of settings, not the value {shown(value)}.")
            yield from _paths(value, inner, dotted + ".")
        elif field is None and isinstance(value, Mapping) and value:
            yield from (f"{dotted}.{name}" for name in value)
        else:
            yield dotted


def _describe(kind: type[Section], prefix: str) -> Iterable[KeyDoc]:
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _describe(inner, f"{prefix}{name}.")
            continue
        extra = field.json_schema_extra
        unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
        default = field.get_default(call_default_factory=True)
        yield KeyDoc(f"{prefix}{name}", _type_name(inner), unit, default, field.description or "")


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if origin in (Union, UnionType):
        return " | ".join("null" if part is type(None) else _type_name(part) for part in get_args(annotation))
    if origin is dict:
        return "mapping"
    return str(getattr(annotation, "__name__", annotation))


def _get(values: Mapping[str, Any], dotted: str) -> Any:
    value: Any = values
    for part in dotted.split("."):
        value = value[part]
    return value


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    dotted = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if dotted and not message.startswith(dotted):
        return f"{where}: {dotted} is {shown(first['input'])}, but {message[0].lower()}{message[1:]}{more}."
    return f"{where}: {message}{more}."
