"""A page read back: its structure, its text, and what a browser might fetch for it."""

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "input", "wbr"}
DRAWN = {"path", "rect"}


class Outline(HTMLParser):
    """Checks that tags are closed in order, and collects what a browser might fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID | DRAWN:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"] or "")
        if tag == "img":
            assert given["alt"]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        self.sources += [given[key] or "" for key in ("src", "href", "srcset") if key in given]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in DRAWN

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)


def read_page(path: Path) -> tuple[str, str]:
    """Give a page's HTML and its text, having looked at its structure."""
    html = path.read_text(encoding="utf-8")
    outline = Outline(html)
    assert all(source.startswith("data:") for source in outline.sources)
    assert outline.headings[0] == "h1"
    assert outline.headings.count("h1") == 1
    written = re.sub('base64,[^"]*|http-equiv|http://www.w3.org/2000/svg', "", html)
    assert "http" not in written
    return html, " ".join(" ".join(outline.text).split())
