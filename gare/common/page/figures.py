"""Draw pictures of a page: matplotlib's SVG in the page's colours and font, with titles for its marks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from gare.common.redact import printable

if TYPE_CHECKING:
    from markupsafe import Markup

INK: Final = "#1b1f24"
FAINT: Final = "#59636e"
LINE: Final = "#d5dae0"
BAR: Final = "#6b8db8"
GOOD: Final = "#1a7f42"
GROUND: Final = "#fefefe"
VARIABLES: Final = {INK: "ink", FAINT: "faint", LINE: "line", BAR: "bar", GOOD: "good", GROUND: "ground"}
"""Drawing colours and the variable of ``page.html`` that each becomes, so that dark pages have dark pictures."""

SETTINGS: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gare",
    "text.parse_math": False,
    "font.size": 11.5,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
}
SVG: Final = "{http://www.w3.org/2000/svg}"
LINK: Final = "{http://www.w3.org/1999/xlink}href"
DROPPED: Final = {f"{SVG}metadata", f"{SVG}style"}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with matplotlib's own defaults instead of the user's; text between dollar signs is not a formula.

    matplotlib's settings belong to the process, so they are restored at the end.
    """
    import matplotlib.style

    with matplotlib.style.context(["default", SETTINGS]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own font shows it
        yield


def canvas(width: float, height: float) -> Any:
    """Make an empty matplotlib figure of ``width`` x ``height`` pixels of the page."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def inline_svg(figure: Any, name: str, label: str, titles: Mapping[str, str] | None = None) -> Markup:
    """Draw a figure as SVG for a page, within ``drawing``; the same figure gives the same text.

    Args:
        figure: The matplotlib figure, in the colours above.
        name: Unique among the pictures of the page.
        label: A description for readers who cannot see it.
        titles: The tooltip of an artist, by its ``gid``.
    """
    from markupsafe import Markup

    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    root = ET.fromstring(stream.getvalue())  # noqa: S314 - matplotlib's own output
    used = {element.attrib[LINK][1:] for element in root.iter() if LINK in element.attrib}
    for element in list(root.iter()):
        _adopt(element, name, used, titles or {})
    size = {side: root.get(side, "").removesuffix("pt") for side in ("width", "height")}
    root.attrib = size | {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": printable(label)}
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - ElementTree has escaped all text


def _adopt(element: ET.Element, name: str, used: set[str], titles: Mapping[str, str]) -> None:
    """Fit an element into the page: no namespaces, no metadata, unique ids, the page's colours and font."""
    for child in [child for child in element if child.tag in DROPPED]:
        element.remove(child)
    element.tag = element.tag.removeprefix(SVG)
    identity = element.attrib.pop("id", "")
    if identity in used:
        element.set("id", f"{name}-{identity}")
    if LINK in element.attrib:
        element.set("href", f"#{name}-{element.attrib.pop(LINK)[1:]}")
    if identity in titles:
        title = ET.Element("title")
        title.text = printable(titles[identity])
        element.insert(0, title)
    if "style" in element.attrib:
        declared = (part for part in element.attrib["style"].split("; ") if not part.startswith("font-family"))
        style = "; ".join(declared)
        for colour, variable in VARIABLES.items():
            style = style.replace(colour, f"var(--{variable})")
        element.set("style", style)
