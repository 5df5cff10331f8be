"""Links between the pages of the documentation have a target."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .markdown import PAGES, README, ROOT, headings, prose

LINKING = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
TARGET = re.compile(r"\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|\b(?:src|href)=\"([^\"]+)\"")


def targets(text: str) -> list[str]:
    """Return the targets of links and images of a page, without external ones."""
    found = [markdown or html for markdown, html in TARGET.findall(prose(text))]
    return [target for target in found if not re.match(r"[a-z][a-z+.-]*:", target)]


def broken(page: Path, target: str, root: Path = ROOT) -> str | None:
    """Return the problem of a link, or None."""
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    if not there.exists():
        return f"{target}: no such file"
    if not there.is_relative_to(root):
        return f"{target}: outside the project"
    if anchor and anchor not in headings(there.read_text(encoding="utf-8")):
        return f"{target}: no such heading"
    return None


def links() -> Iterator[Any]:
    for page in LINKING:
        for target in targets(page.read_text(encoding="utf-8")):
            yield pytest.param(page, target, id=f"{page.relative_to(ROOT)}:{target}")


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_link_has_a_target(page: Path, target: str) -> None:
    assert broken(page, target) is None


def test_every_page_is_reachable_from_the_readme() -> None:
    reached, todo = {README}, [README]
    while todo:
        page = todo.pop()
        for target in targets(page.read_text(encoding="utf-8")):
            path = (page.parent / target.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.is_file() and path not in reached:
                reached.add(path)
                todo.append(path)
    lost = [str(page.relative_to(ROOT)) for page in PAGES if page not in reached]
    assert not lost, f"no page links to {', '.join(lost)}"


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Some `words`, [here](x)!\n\n## Twice\n\n## Twice\n\n"
        "[a](page.md) ![b](<no.png>) [c](https://example.org) [d](#twice-1) [e](#twice-2)\n"
        '[f](page.md#some-words-here "title") <img src="/etc/passwd"> `[g](code.md)`\n\n'
        "    [h](block.md)\n"
    )
    found = targets(page.read_text())
    assert {target: broken(page, target, tmp_path) for target in found} == {
        "x": "x: no such file",
        "page.md": None,
        "no.png": "no.png: no such file",
        "#twice-1": None,
        "#twice-2": "#twice-2: no such heading",
        "page.md#some-words-here": None,
        "/etc/passwd": "/etc/passwd: outside the project",
    }
