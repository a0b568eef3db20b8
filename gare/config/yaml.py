"""YAML by the 1.2 rules: ``1e-5`` is a number, ``no`` a word, duplicate keys an error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gare.common.errors import ConfigError
from gare.common.text import decode


def _reader() -> YAML:
    return YAML(typ="safe", pure=True)


def parse(text: str, where: str) -> Any:
    """The plain value of a YAML text; ``where`` names it in errors."""
    try:
        return _reader().load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}{line} is not valid YAML: {problem}.") from None
    except (ValueError, RecursionError) as error:  # a date that is none, a number of thousands of digits, [[[[...
        raise ConfigError(f"{where} holds a value that cannot be read: {error}.") from None


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = decode(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {path}; give the path of a YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the config file {path}: {error}.") from None
    value = parse(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}, not a mapping of settings.")
    return value


def dump(value: Any) -> str:
    """A plain value as YAML text in the order given."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 120
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    writer.dump(value, stream)
    return stream.getvalue()
