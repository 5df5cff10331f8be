"""The pages of scores as a person meets them: in a real browser, without a network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from drn_cli.runs import Run

from .browser import Browser, Tab
from .looking import CONTRAST, OVERFLOW, other_requests
from .scored import DRAWN, Classified, Localized, Segmented

PAGES = ("segmented", "classified", "localized")
# What is seen of each picture, its layers from below.
VISIBLE = """
[...document.querySelectorAll('#pictures figure')].map(figure =>
    [...figure.querySelectorAll('img, svg')]
        .filter(layer => layer.getBoundingClientRect().width > 0)
        .map(layer => layer.getAttribute('class')).join(' '))
"""
# Which box lies uppermost at its own left edge, of each picture in which one was found.
ON_TOP = """
[...document.querySelectorAll('rect.found.over')].map(box => {
  box.closest('figure').scrollIntoView({block: 'center'});
  const at = new DOMPoint(box.x.baseVal.value, box.y.baseVal.value + box.height.baseVal.value / 3)
      .matrixTransform(box.getScreenCTM());
  return document.elementsFromPoint(at.x + 0.5, at.y)[0] === box;
})
"""
# Each box's left, top, right and bottom, as shares of the picture as it is seen.
PLACES = """
[...document.querySelectorAll('rect.over')].map(box => {
  const frame = box.closest('.frame').querySelector('img.picture').getBoundingClientRect();
  const {x, y, width, height} = box.getBBox();
  const corners = [[x, y], [x + width, y + height]].flatMap(([across, down]) => {
    const at = new DOMPoint(across, down).matrixTransform(box.getScreenCTM());
    return [(at.x - frame.left) / frame.width, (at.y - frame.top) / frame.height];
  });
  const name = box.closest('figure').querySelector('.name').textContent.split('/').at(-1);
  return [name, box.getAttribute('class'), ...corners];
})
"""


@pytest.fixture(scope="module")
def paths(
    segmentation_run: Run,
    data_folder: Path,
    classification_run: Run,
    birds: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    protocol = {"text": "Scored with care. " * 20, "images": "made/" * 12, "labels": "val"}
    segmented = Segmented.of(segmentation_run, data_folder)
    classified = Classified.of(classification_run, birds)
    localized = Localized.of(tmp_path_factory.mktemp("drawn"))
    return {
        "segmented": segmented.write(folder / "segmented.html", protocol=protocol),
        "classified": classified.write(folder / "classified.html"),
        "localized": localized.write(folder / "localized.html"),
    }


@pytest.fixture(params=PAGES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tab(browser: Browser, paths: dict[str, Path], kind: str) -> Iterator[Tab]:
    tab = browser.open(paths[kind])
    yield tab
    tab.close()


def choose(tab: Tab, mode: str) -> None:
    tab.evaluate(f"document.getElementById('show-{mode}').click()")


def test_it_opens_without_network_requests_or_complaints(
    tab: Tab, paths: dict[str, Path], kind: str
) -> None:
    images = {"segmented": 5 * 4, "classified": 6, "localized": len(DRAWN) * 2}[kind]
    assert tab.evaluate("document.images.length") == images
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)") is True
    assert other_requests(tab, paths[kind]) == []
    assert tab.complaints() == []


@pytest.mark.parametrize("kind", ["segmented"])
def test_a_segmenters_switch_changes_all_pictures(tab: Tab) -> None:
    assert tab.evaluate(VISIBLE) == 5 * ["picture"]
    for mode in ("label", "prediction", "error", "picture"):
        choose(tab, mode)
        assert tab.evaluate(VISIBLE) == 5 * ["picture error" if mode == "error" else mode]
        shown = tab.evaluate("document.querySelector('.error-key').offsetHeight > 0")
        assert shown is (mode == "error")
    assert tab.complaints() == []


@pytest.mark.parametrize("kind", ["segmented"])
def test_the_classes_under_the_mouse_are_named(tab: Tab) -> None:
    tab.point_at("#pictures .frame", down=0.01)
    said = tab.evaluate("document.querySelector('#pictures .pixel').textContent")
    assert said.startswith("label: void, predicted: ")
    assert said.rpartition(" ")[2] in ("red", "green", "blue")


@pytest.mark.parametrize("kind", ["localized"])
def test_boxes_lie_on_the_picture_and_on_its_heat(tab: Tab) -> None:
    for mode in ("picture", "heat", "picture"):
        choose(tab, mode)
        assert tab.evaluate(VISIBLE) == len(DRAWN) * [f"{mode} boxes"]
        assert tab.evaluate(ON_TOP) == (len(DRAWN) - 1) * [True]
    tab.evaluate("document.getElementById('show-picture').focus()")
    tab.press("ArrowRight")
    assert tab.evaluate(VISIBLE) == len(DRAWN) * ["heat boxes"]
    assert tab.complaints() == []


@pytest.mark.parametrize("kind", ["localized"])
@pytest.mark.parametrize("mode", ["picture", "heat"])
@pytest.mark.parametrize("width", [1200, 360])
def test_boxes_are_seen_where_they_are(tab: Tab, width: int, mode: str) -> None:
    tab.show(width, 800, phone=width == 360)
    choose(tab, mode)
    frame = f"img.{mode}"
    seen = [tuple(place) for place in tab.evaluate(PLACES.replace("img.picture", frame))]
    expected = [
        (name, "over true", left / across, top / 64, (right + 1) / across, (bottom + 1) / 64)
        for name, (across, _, boxes) in DRAWN.items()
        for _, (left, top, right, bottom) in boxes
    ]
    for place in expected:
        assert place[:2] in [found[:2] for found in seen]
        near = [found[2:] for found in seen if found[:2] == place[:2]]
        assert any(corners == pytest.approx(place[2:], abs=0.005) for corners in near), place
    assert len([found for found in seen if found[1] == "over true"]) == len(expected)
    found_ones = {found[0]: found[2:] for found in seen if found[1] == "over found"}
    assert found_ones["red.png"] == pytest.approx((16 / 96, 8 / 64, 48 / 96, 40 / 64), abs=0.005)
    assert len(found_ones) == len(DRAWN) - 1


@pytest.mark.parametrize("kind", ["localized"])
def test_true_and_found_boxes_differ_without_colour(tab: Tab) -> None:
    style = "getComputedStyle(document.querySelector('rect.{}')).{}"
    assert tab.evaluate(style.format("found.over", "strokeDasharray")) == "none"
    assert tab.evaluate(style.format("true.over", "strokeDasharray")) != "none"
    for box in ("found", "true"):  # light on dark, whatever the picture is
        assert tab.evaluate(style.format(f"{box}.under", "stroke")) == "rgb(0, 0, 0)"
        red, green, _ = tab.evaluate(f"{style.format(f'{box}.over', 'stroke')}.match(/[0-9]+/g)")
        assert min(int(red), int(green)) > 200
    key = tab.evaluate("document.querySelector('#pictures .key').textContent")
    assert key == "dashed: truesolid: found"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_sticks_out_on_a_phone(tab: Tab, kind: str, dark: bool) -> None:
    tab.show(360, 740, dark=dark, phone=True)
    modes = {"segmented": ["picture", "label", "error"], "localized": ["picture", "heat"]}
    for mode in modes.get(kind, ()):
        choose(tab, mode)
        assert tab.evaluate(OVERFLOW) == 0
    assert tab.evaluate("window.innerWidth") == 360
    assert tab.evaluate(OVERFLOW) == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_stands_out(tab: Tab, kind: str, dark: bool) -> None:
    tab.show(1200, 900, dark=dark)
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    for mode in {"segmented": ["error", "picture"], "localized": ["heat"]}.get(kind, ()):
        choose(tab, mode)
        worst = tab.evaluate(CONTRAST)
        assert worst["count"] > 40
        assert worst["contrast"] >= 4.5, worst
    assert tab.evaluate(CONTRAST)["contrast"] >= 4.5


@pytest.mark.parametrize("kind", ["segmented", "localized"])
def test_sections_do_not_run_into_each_other(tab: Tab) -> None:
    """What follows the tiles has some space above it."""
    gap = tab.evaluate(
        "(() => { const tiles = document.querySelector('header .tiles');"
        "return tiles.nextElementSibling.getBoundingClientRect().top"
        " - tiles.getBoundingClientRect().bottom; })()"
    )
    assert gap >= 8
