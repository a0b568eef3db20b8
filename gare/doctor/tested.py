"""The versions this release runs with: the oldest allowed, and the one it is tested with."""

from __future__ import annotations

from typing import Final

OLDEST_PYTHON: Final = (3, 11)

PACKAGES: Final[dict[str, tuple[str, str]]] = {
    "ray": ("2.60", "2.60.0"),
    "torch": ("2.9", "2.13.0"),
    "transformers": ("5.20", "5.23.0"),
    "av": ("17", "18.1.0"),
    "pyarrow": ("22", "25.0.1"),
    "mlflow": ("3.17", "3.17.2"),
    "click": ("8.1", "8.5.1"),
    "ftfy": ("6.3", "6.3.1"),
    "Jinja2": ("3.1", "3.1.6"),
    "matplotlib": ("3.9", "3.11.2"),
    "numpy": ("2", "2.4.6"),
    "optuna": ("5", "5.0.0"),
    "pillow": ("11", "13.0.0"),
    "psutil": ("6", "7.2.2"),
    "pydantic": ("2.11", "2.14.3"),
    "rich": ("13", "15.0.0"),
    "ruamel.yaml": ("0.18", "0.19.1"),
    "safetensors": ("0.6", "0.8.0"),
    "scikit-learn": ("1.5", "1.9.1"),
    "scipy": ("1.13", "1.17.1"),
    "tokenizers": ("0.22", "0.23.3"),
}
"""Name to oldest and tested version: those of pyproject.toml and constraints.txt, which a test holds against this."""

EXACT: Final = ("ray",)
"""Packages whose version has to be the tested one up to the second number: all processes of a cluster must agree."""
