"""A page read back: structure, text, tables, and what a browser would load for it."""

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

VOID = {"meta", "link", "img", "wbr"}
CLOSED = {"path", "rect", "use"}  # of SVG, closed by themselves


class Page(HTMLParser):
    """Parses a page and fails on tags out of order, equal ids, or anything that would be loaded.

    `text` is all text but style and script, single spaced.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: dict[str, list[str]] = {}  # alternative texts by class
        self.curves: dict[str, list] = {}  # name, color and points of each, by chart
        self.tables: dict[str, list[list[str]]] = {}  # rows of cells, by section
        self._text: list[str] = []
        self._section = ""
        self.feed(self.html)
        self.close()
        assert not self.open
        assert len(self.ids) == len(set(self.ids))
        assert all(link.startswith(("data:", "#")) for link in self.links), self.links
        assert self.html.count("<script") == 1
        references = {*re.findall(r"url\(#([^)]*)\)", self.html)}
        references |= {link[1:] for link in self.links if link.startswith("#")}
        assert references <= set(self.ids)
        self.text = " ".join(" ".join(self._text).split())

    def pixels(self, kind: str) -> list[np.ndarray]:
        """Decode the images of one class."""
        found = re.findall(rf'<img class="{kind}" src="data:image/\w+;base64,([^"]*)"', self.html)
        return [np.asarray(Image.open(BytesIO(b64decode(text))).convert("RGB")) for text in found]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "img":
            assert given["alt"]
            self.images.setdefault(given["class"], []).append(given["alt"])
        if tag == "section":
            self._section = given["id"]
        if "data-curves" in given:
            name = given["id"].removeprefix("chart-")
            self.curves[name] = json.loads(given["data-curves"])
        if tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.tables[self._section][-1].append("")
        self.links += [given[key] for key in ("src", "href", "srcset") if key in given]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in CLOSED, tag
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] in (["style"], ["script"]):
            return
        self._text.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[self._section][-1][-1] += data.strip("\n")
