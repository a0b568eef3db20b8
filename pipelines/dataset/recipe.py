"""A decode recipe as a folder states it, and its name. Older folders lack the settings that came later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gare.common.files import digest_of
from gare.config.prepare import BEFORE, UNSAID, PrepareConfig
from gare.schema import SCHEMA_VERSION

Lacking = frozenset[str]
"""Settings that a stored recipe lacks. Its frames cannot be made again: colours were converted otherwise then."""


def read_recipe(values: Mapping[str, Any]) -> tuple[PrepareConfig, Lacking]:
    """Read a stored recipe, and what it lacks of ``BEFORE``. Raises ValueError where it is none of this software."""
    recipe = PrepareConfig.model_validate_json(json.dumps({**BEFORE, **values}))
    return recipe, Lacking(BEFORE.keys() - values.keys())


def stated(recipe: PrepareConfig, lacking: Lacking = frozenset()) -> dict[str, Any]:
    """The settings as they are stored: without those that are lacking, or ``UNSAID``."""
    unsaid = {name for name, value in UNSAID.items() if getattr(recipe, name) == value}
    return recipe.model_dump(mode="json", exclude=unsaid | lacking)


def recipe_digest(recipe: PrepareConfig, lacking: Lacking = frozenset()) -> str:
    """Name a decode recipe: 16 hex digits, stamped into every shard made by it."""
    return digest_of({"schema_version": SCHEMA_VERSION, "prepare": stated(recipe, lacking)})
