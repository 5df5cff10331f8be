import json
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from drn_cli.report.chart import (
    APART,
    HEIGHT,
    MOST_POINTS,
    WIDTH,
    Chart,
    Line,
    draw,
)


def chart(*lines: list[float | None], names: str = "abc", **values: object) -> Chart:
    count = len(lines[0])
    defaults = {
        "title": "Loss",
        "epochs": [float(n + 1) for n in range(count)],
        "last_epoch": count,
    }
    made = tuple(Line(name, line) for name, line in zip(names, lines, strict=False))
    return Chart(lines=made, **(defaults | values))  # type: ignore[arg-type]


def svg(html: str) -> ElementTree.Element:
    found = re.search("<svg.*</svg>", html)
    assert found
    return ElementTree.fromstring(found.group())


def paths(html: str, kind: str) -> list[str]:
    return [
        path.attrib["d"]
        for path in svg(html).iter("path")
        if kind in path.attrib["class"].split(" ")
    ]


def texts(html: str, kind: str) -> list[str]:
    return [t.text or "" for t in svg(html).iter("text") if kind in t.attrib["class"]]


def points(html: str) -> list[tuple[float, str, list[float | None]]]:
    found = re.search('data-points="(.*?)"', html)
    assert found
    return json.loads(unescape(found.group(1)))


def test_higher_values_are_higher_up_and_later_ones_to_the_right() -> None:
    drawn = points(draw(chart([1.0, 3.0, 2.0])))
    (left, _, [low]), (middle, _, [high]), (right, _, [between]) = drawn
    assert 0 < left < middle < right < WIDTH
    assert low is not None and high is not None and between is not None
    assert 0 < high < between < low < HEIGHT


def test_a_line_breaks_where_nothing_was_measured() -> None:
    html = draw(chart([1, 2, None, 4, 5]))
    drawn = paths(html, "line")
    assert [line.count("L") for line in drawn] == [1, 1]
    assert points(html)[2][1] == "epoch 3: a not known"
    assert points(html)[2][2] == [None]


def test_a_single_value_is_seen() -> None:
    html = draw(chart([0.5], last_epoch=0.1, epochs=[0.1]))
    assert len(paths(html, "mark")) == 1
    assert "epoch 0.1: a 0.5" in html
    alone = draw(chart([None if n % 50 else 1.0 for n in range(101)]))
    assert len(paths(alone, "mark")) == 3


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_a_constant_is_drawn(value: float) -> None:
    [(_, _, [height]), _] = points(draw(chart([value, value])))
    assert height is not None
    assert 0 < height < HEIGHT


def test_a_long_run_is_brought_down_to_means_and_ranges() -> None:
    values = [float(n % 2) for n in range(10 * MOST_POINTS)]
    html = draw(chart(values))
    drawn = points(html)
    assert len(drawn) == MOST_POINTS
    assert drawn[-1][1] == f"epoch {10 * MOST_POINTS}: a 0.5 (0 to 1)"
    assert len(paths(html, "range")) == 1
    assert not paths(html, "mark")


def test_a_peak_does_not_press_the_rest_flat() -> None:
    values = [1.0 + n / 100 for n in range(100)]
    usual, spoilt = points(draw(chart(values))), draw(chart([1000.0, *values[1:]]))
    assert "Peaks up to 1000 are cut off." in spoilt
    heights = [points(spoilt)[n][2][0] or 0 for n in (10, 99)]
    before = [usual[n][2][0] or 0 for n in (10, 99)]
    assert heights[0] - heights[1] > (before[0] - before[1]) / 3
    assert "cut off" not in draw(chart(values))


def test_names_stand_where_the_lines_end_and_do_not_overlap() -> None:
    html = draw(chart([1, 50.0], [1, 50.1], [1, 49.9], names=["one", "two", "three"]))
    assert texts(html, "name") == ["two", "one", "three"]
    heights = [float(t.attrib["y"]) for t in svg(html).iter("text") if t.attrib["class"] == "name"]
    assert all(other - one >= APART - 0.1 for one, other in pairwise(heights))
    low = draw(chart([1, 0.0], [1, 0.0], [1, 0.0], names=["one", "two", "three"]))
    heights = [float(t.attrib["y"]) for t in svg(low).iter("text") if t.attrib["class"] == "name"]
    assert max(heights) < HEIGHT - 20
    assert not texts(draw(chart([1, 2])), "name")


def test_what_it_shows_is_said_in_words() -> None:
    html = draw(chart([3, 1, 2], title="Loss", unit=" %", last_epoch=3))
    assert svg(html).attrib["aria-label"] == (
        "Loss, over 3 epochs: a from 3 % to 2 %, between 1 and 3."
    )


def test_names_are_escaped() -> None:
    html = draw(chart([1, 2], [1, 3], names=["<b>&", '"x"'], title="<i>", note="<u>"))
    found: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            found.append(tag)

    Tags().feed(html)
    assert {"b", "i", "u"}.isdisjoint(found)
    assert sorted(texts(html, "name")) == ['"x"', "<b>&"]
