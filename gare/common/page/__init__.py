"""Report pages: one HTML file that needs nothing else, with no script and nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from gare.common.page.parts import text

ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class PageSection:
    """A part of a page. ``name``: its anchor; ``title``: plain text; ``body``: HTML."""

    name: str
    title: str
    body: str


def document(title: str, header: str, sections: Sequence[PageSection], *, style: str = "") -> str:
    """Make a whole page.

    ``title``: plain text; ``header``: HTML that stands below it; ``style``: CSS beyond what all pages share.
    """
    shared = (files("gare.common.page") / "style.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{each.name}">{text(each.title)}</a></li>' for each in sections)
    bodies = "".join(f'<section id="{each.name}"><h2>{text(each.title)}</h2>{each.body}</section>' for each in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{ALLOWED}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>'
        f"<style>\n{shared}{style}</style></head>\n<body><header><h1>{text(title)}</h1>{header}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>{bodies}</main></body></html>\n'
    )
