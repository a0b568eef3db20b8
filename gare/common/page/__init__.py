"""Report pages: self-contained HTML files with no script and nothing loaded from elsewhere.

A page is a jinja2 template of its package that extends ``page.html``; every value is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from gare.common.redact import printable

if TYPE_CHECKING:
    from jinja2 import Environment

NO_BREAK = "\u00a0"


def render(package: str, template: str, sections: Sequence[tuple[str, str]], **values: Any) -> str:
    """Render a page.

    Args:
        package: The package whose folder holds the template.
        template: Its file name. It has a block ``header`` and a block for each section.
        sections: (name of the block, title), in order.
        values: The template's values. Plain text is escaped; characters that a terminal or browser would obey are
            written as escape sequences.
    """
    return environment(package).get_template(template).render(sections=sections, **values)


def count(number: int, one: str) -> str:
    """Format a number of things."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def share(percent: float, digits: int = 1) -> str:
    """Format a share in percent."""
    return f"{percent:.{digits}f}{NO_BREAK}%"


def span(interval: tuple[float, float] | None) -> str:
    """Format an interval; empty if there is none."""
    return "" if interval is None else f"{interval[0]:.1f}\u2013{interval[1]:.1f}"


@cache
def environment(package: str) -> Environment:
    """Return what renders the templates of a package, which can use those here."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(__name__, ".")]),
    )
    environment.filters |= {"share": share, "span": span, "thousands": lambda number: f"{number:,}"}
    environment.globals["count"] = count
    return environment


def _shown(value: Any) -> Any:
    """Escape control characters and changes of direction in text; HTML from a template stays unchanged."""
    return value if hasattr(value, "__html__") else printable(str(value))
