"""The page as a person meets it: in a real browser, without a network."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from drn_cli.report.page import write_report
from drn_cli.runs import Run

from .browser import Browser, Tab
from .folders import segmentation_recipe, write_run
from .looking import CONTRAST, OVERFLOW, other_requests

MODES = ("picture", "label", "prediction", "error")
VISIBLE = """
[...document.querySelectorAll('#pictures figure:first-child img')]
    .filter(image => image.getBoundingClientRect().width > 0).map(image => image.className)
"""


@pytest.fixture
def tab(browser: Browser, page: Path) -> Iterator[Tab]:
    tab = browser.open(page)
    yield tab
    tab.close()


def test_it_opens_without_network_requests_or_complaints(tab: Tab, page: Path) -> None:
    assert tab.evaluate("document.title") == "easy/2026-01-31_12-00-00"
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)") is True
    assert tab.evaluate("document.images.length") == 5 * len(MODES)
    assert other_requests(tab, page) == []
    assert tab.complaints() == []


def test_the_policy_keeps_what_is_foreign_out(browser: Browser, page: Path, tmp_path: Path) -> None:
    """What somebody might smuggle into a page's text does not run, and loads nothing."""
    (tmp_path / "secret.png").write_bytes(b"")
    spoilt = tmp_path / "spoilt.html"
    picture = (tmp_path / "secret.png").as_uri()
    foreign = f'<script>document.title = "taken over"</script><img src="{picture}">'
    spoilt.write_text(page.read_text().replace("</main>", f"{foreign}</main>"))
    tab = browser.open(spoilt)
    assert tab.evaluate("document.title") == "easy/2026-01-31_12-00-00"
    complaints = json.dumps(tab.complaints())
    assert complaints.count("Content Security Policy") == 2, complaints
    tab.close()


@pytest.mark.parametrize("mode", MODES)
def test_the_switch_changes_all_pictures(tab: Tab, mode: str) -> None:
    tab.evaluate(f"document.getElementById('show-{mode}').click()")
    shown = {"error": ["picture", "error"]}.get(mode, [mode])
    assert tab.evaluate(VISIBLE) == shown
    everywhere = tab.evaluate(VISIBLE.replace(":first-child", ""))
    assert everywhere == 5 * shown
    assert tab.evaluate("document.querySelector('.error-key').offsetHeight > 0") is (
        mode == "error"
    )


def test_the_switch_obeys_the_keyboard(tab: Tab) -> None:
    tab.evaluate("document.getElementById('show-picture').focus()")
    for mode in ("label", "prediction", "error", "picture"):
        tab.press("ArrowRight")
        assert tab.evaluate("document.activeElement.value") == mode
        assert tab.evaluate(VISIBLE)[-1] == mode


def test_a_curve_is_read_with_the_mouse(tab: Tab) -> None:
    first = "document.querySelector('.chart output').textContent"
    assert tab.evaluate(first) == "epoch 4: loss 0.2222"
    tab.point_at(".chart svg", across=0.01)
    assert tab.evaluate(first) == "epoch 0.1: loss 1.667"
    assert tab.evaluate("document.querySelector('.cursor').getAttribute('visibility')") == "visible"
    tab.point_at("h1")
    assert tab.evaluate(first) == "epoch 4: loss 0.2222"


def test_a_curve_is_read_with_the_keyboard(tab: Tab) -> None:
    scores = "document.querySelectorAll('.chart')[1]"
    tab.evaluate(f"{scores}.querySelector('svg').focus()")
    read = f"{scores}.querySelector('output').textContent"
    tab.press("ArrowLeft")
    assert tab.evaluate(read) == "epoch 3: mIoU 50 %, pixel accuracy 70 %"
    tab.press("Home")
    tab.press("ArrowLeft")
    assert tab.evaluate(read) == "epoch 1: mIoU 20 %, pixel accuracy 40 %"
    tab.press("End")
    assert tab.evaluate(read) == "epoch 4: mIoU 40 %, pixel accuracy 60 %"


def test_the_classes_under_the_mouse_are_named(tab: Tab) -> None:
    tab.point_at("#pictures .frame", down=0.01)
    said = tab.evaluate("document.querySelector('#pictures .pixel').textContent")
    assert said.startswith("label: void, predicted: ")
    assert said.rpartition(" ")[2] in ("red", "green", "blue")
    tab.point_at("#pictures .frame", down=0.9)
    assert "void" not in tab.evaluate("document.querySelector('#pictures .pixel').textContent")


@pytest.mark.parametrize("mode", ["picture", "error"])
def test_nothing_sticks_out_on_a_phone(tab: Tab, mode: str) -> None:
    tab.show(360, 740, phone=True)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    tab.evaluate(f"document.getElementById('show-{mode}').click()")
    assert tab.evaluate("window.innerWidth") == 360
    assert tab.evaluate(OVERFLOW) == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_stands_out(tab: Tab, dark: bool) -> None:
    tab.show(1200, 900, dark=dark)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    worst = tab.evaluate(CONTRAST)
    assert worst["count"] > 150
    assert worst["contrast"] >= 4.5, worst


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_numbers_stand_out_in_cells_of_any_share(
    browser: Browser, data_folder: Path, tmp_path: Path, dark: bool
) -> None:
    shares = [
        0,
        50,
        100,
        200,
        300,
        400,
        450,
        500,
        550,
        600,
        620,
        639,
        640,
        660,
        700,
        800,
        900,
        1000,
    ]
    matrix = np.diag(shares)
    matrix[:, 0] += 1000 - matrix.sum(axis=1)  # the rest of each label is taken for the first class
    iou = {f"class {number}": 0.5 for number in range(len(shares))}
    run = write_run(tmp_path / "run", segmentation_recipe(data_folder))
    run.scores.write_text(json.dumps({"iou": iou, "confusion_matrix": matrix.tolist()}))
    tab = browser.open(write_report(run, tmp_path / "page.html", pictures=0).path)
    tab.show(1200, 900, dark=dark)
    worst = tab.evaluate(CONTRAST)
    assert worst["count"] > len(shares) ** 2
    assert worst["contrast"] >= 4.5, worst
    tab.close()


def test_curves_differ_without_colour(tab: Tab) -> None:
    dashes = tab.evaluate(
        "[...document.querySelectorAll('.chart:nth-child(2) path.line')]"
        ".map(line => getComputedStyle(line).strokeDasharray)"
    )
    assert len(dashes) == 2
    assert len(set(dashes)) == 2
    names = "[...document.querySelectorAll('.chart:nth-child(2) .name')]"
    assert sorted(tab.evaluate(f"{names}.map(text => text.textContent)")) == [
        "mIoU",
        "pixel accuracy",
    ]
    inside = f"{names}.every(text => text.getBBox().x + text.getBBox().width <= 420)"
    assert tab.evaluate(inside) is True


def test_a_classification_page(browser: Browser, classification_run: Run, tmp_path: Path) -> None:
    made = write_report(classification_run, tmp_path / "page.html")
    tab = browser.open(made.path)
    assert tab.evaluate("document.images.length") == 6
    verdicts = tab.evaluate("[...document.querySelectorAll('.verdict')].map(v => v.textContent)")
    assert set(verdicts) <= {"✓ right", "✗ wrong"}
    tab.show(360, 740, phone=True, dark=True)
    assert tab.evaluate(OVERFLOW) == 0
    assert tab.evaluate(CONTRAST)["contrast"] >= 4.5
    assert other_requests(tab, made.path) == []
    assert tab.complaints() == []
    tab.close()
