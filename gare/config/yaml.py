"""Read and write YAML by the 1.2 rules: ``1e-5`` is a number, ``no`` a word, duplicate keys an error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gare.common.errors import ConfigError
from gare.common.redact import first_line
from gare.common.text import decode

MOST_CHARACTERS: Final = 2**20
MOST_VALUES: Final = 100_000
MOST_DEPTH: Final = 32


def parse(text: str, where: str) -> Any:
    """Parse a YAML text to a plain value; ``where`` names it in errors.

    Raises ConfigError for text that is not YAML or, with every alias written out, too large for settings.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{where} has {len(text)} characters; settings have at most {MOST_CHARACTERS}.")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise ConfigError(f"{where}{line} is not valid YAML: {problem}.") from None
    except (ValueError, RecursionError) as error:  # an invalid date, a number of thousands of digits, [[[[...
        raise ConfigError(f"{where} holds a value that cannot be read: {error}.") from None

    _check_size(value, where)
    return value


def _check_size(value: Any, where: str) -> None:
    """Check a value's unfolded size: a few lines of aliases can unfold to gigabytes, or without end."""
    waiting, values, characters = [(value, 0)], 0, 0
    while waiting:
        one, depth = waiting.pop()
        values, characters = values + 1, characters + (len(one) if isinstance(one, str) else 0)
        if values > MOST_VALUES or depth > MOST_DEPTH or characters > MOST_CHARACTERS:
            raise ConfigError(
                f"{where} unfolds to more than settings may hold ({MOST_VALUES} values, {MOST_DEPTH} levels, "
                f"{MOST_CHARACTERS} characters); look for aliases (*name) that repeat one another."
            )
        if isinstance(one, dict):
            waiting.extend((inner, depth + 1) for pair in one.items() for inner in pair)
        elif isinstance(one, list | set | tuple):
            waiting.extend((inner, depth + 1) for inner in one)


def read(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file."""
    try:
        with path.open("rb") as stream:
            content = stream.read(4 * MOST_CHARACTERS + 1)
        if len(content) > 4 * MOST_CHARACTERS:
            raise ConfigError(f"{path} has more than {4 * MOST_CHARACTERS} bytes, which is too much for settings.")
        text = decode(content)
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
    """Return a plain value as YAML text in the order given."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 120
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    writer.dump(value, stream)
    return stream.getvalue()
