"""A report page as a browser sees it, by the tree construction of the HTML standard, in which any error fails."""

from __future__ import annotations

import html5lib

HOSTILE = (
    "<script>alert(1)</script> \"quoted\" 'single' & \x00\x1b \ud800 \u202eright to left </p><img src=x> "
    "{{ 7 * 7 }} $x$"
)
SHOWN = HOSTILE.replace("\x00\x1b \ud800 \u202e", "\\x00\\x1b \\ud800 \\u202e")
PLAIN = "1" * len(HOSTILE)
"""Words that ask for nothing, and that sort like the hostile ones."""
LOADING = {"src", "href", "srcset", "action", "data", "poster"}


class Page:
    """What a browser would make of a page: ``tags`` (name, attributes), ``words``, ``loads`` and ``ids``."""

    def __init__(self, text):
        root = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
        self.tags, self.loads, self.ids = [], [], set()
        for element in root.iter():
            values = {str(name).rpartition("}")[2]: value for name, value in element.attrib.items()}
            self.tags.append((element.tag.rpartition("}")[2], values))
            self.loads += [value for name, value in values.items() if name in LOADING]
            assert not any(name.startswith("on") for name in values), f"{values} would run"
            assert values.get("id") not in self.ids
            self.ids |= {values["id"]} if "id" in values else set()
        self.words = list(root.find("body").itertext())
        self.text = " ".join(" ".join(self.words).replace("\xa0", " ").split())

    def shape(self):
        """Every element with the names of its attributes: what text can never change."""
        return [(tag, sorted(values)) for tag, values in self.tags]
