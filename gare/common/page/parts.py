"""Pieces of HTML: escaped text, figures, tables. Every value from outside goes through ``text``."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence


def text(value: object) -> str:
    """A value as escaped text; control characters and halves of surrogate pairs become replacement characters."""
    shown = "".join(c if c in "\t\n" or unicodedata.category(c) not in {"Cc", "Cs"} else "\ufffd" for c in str(value))
    return html.escape(shown)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, side by side where there is room."""
    return f"<dl>{''.join(f'<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>' for name, value in pairs)}</dl>"


def caution(sentence: str) -> str:
    """A sentence to know before the figures."""
    return f'<p class="caution"><strong>Note:</strong> {text(sentence)}</p>'


def share(percent: float) -> str:
    """A share in percent with one decimal."""
    return f"{percent:.1f}&nbsp;%"


def span(interval: tuple[float, float] | None) -> str:
    """An interval, or that there is none."""
    return "" if interval is None else f"{interval[0]:.1f}\u2013{interval[1]:.1f}"


def count(number: int, one: str, many: str = "") -> str:
    """A number of things."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table that scrolls sideways by itself; the first cell of a row is its header. Cells are HTML."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table class="{kind}"><caption>{title}'
        f"</caption><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
