"""Report pages: one HTML file that needs nothing else, with no script and nothing loaded from anywhere.

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
    """Make a page.

    Args:
        package: The package whose folder holds the template.
        template: Its file name. It has a block ``header`` and a block for each section.
        sections: (name of the block, title), in order.
        values: What the template shows. Plain text is escaped; what a terminal or browser would obey is written out.

    """
    return _environment(package).get_template(template).render(sections=sections, **values)


def count(number: int, one: str, many: str = "") -> str:
    """A number of things."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share(percent: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{percent:.{digits}f}{NO_BREAK}%"


def span(interval: tuple[float, float] | None) -> str:
    """An interval, or that there is none."""
    return "" if interval is None else f"{interval[0]:.1f}\u2013{interval[1]:.1f}"


@cache
def _environment(package: str) -> Environment:
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
    """Text with controls and changes of direction written out; HTML that a template made is left alone."""
    return value if hasattr(value, "__html__") else printable(str(value))
