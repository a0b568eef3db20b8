"""``gare config``: the resolved settings, what they mean, how two files differ."""

from __future__ import annotations

from typing import Any

import click

from gare.cli.command import config_options, gare_command
from gare.common.console import print_table, say


@gare_command("config", short_help="Print the resolved settings, what they mean, how two files differ.")
@click.argument("file", required=False, type=click.Path())
@click.option("--schema", is_flag=True, help="List every key with its type, unit, default and meaning.")
@click.option(
    "--diff", nargs=2, type=click.Path(), metavar="A B", help="Show the keys in which two config files differ."
)
@config_options
def config(file: str | None, schema: bool, diff: tuple[str, str] | None, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Print the resolved settings of FILE (the published recipe without one), as YAML.

    \b
    Examples:
      gare config configs/demo.yaml --set train.epochs=3
      gare config --schema
      gare config --diff configs/demo.yaml configs/msrvtt.yaml
    """
    from gare.config import tree

    if schema:
        docs = tree.describe()
        print_table("Settings", ["key", "type", "unit", "default", "meaning"],
                    [[d.key, d.type, d.unit, _text(d.default), d.meaning] for d in docs])  # fmt: skip
        return {"keys": [vars(d) for d in docs]}
    if diff:
        left, right = (tree.load_config(path, overrides) for path in diff)
        changes = tree.diff(left, right)
        print_table(
            f"{diff[0]} against {diff[1]}", ["key", diff[0], diff[1]], [[k, a, b] for k, (a, b) in changes.items()]
        )
        return {"changes": {k: list(pair) for k, pair in changes.items()}}
    resolved = tree.load_config(file, overrides)
    say(tree.to_yaml(resolved).removesuffix("\n"))
    return {"config": resolved.model_dump(mode="json"), "digest": resolved.digest()}


def _text(default: Any) -> str:
    return "null" if default is None else str(default)
