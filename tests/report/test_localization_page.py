"""Pages of boxes that a classifier really found, in pictures where it is known which these are."""

import io
import re
from base64 import b64decode
from html import escape, unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from drn_cli.data.boxes import Box
from drn_cli.errors import DrnError
from drn_cli.evaluation.localization import Located, localize
from drn_cli.inference.activation import Kind
from drn_cli.inference.loading import load_classifier
from drn_cli.runs import Run

from .folders import ALONE
from .outline import read_page
from .scored import NAMES, WIDE, Localized
from .seeing import PAINT, PALE

FIGURE = re.compile(
    r'<figure class="(?P<kind>\w+)">'
    r'.*?class="picture" src="data:image/jpeg;base64,(?P<picture>.*?)"'
    r'.*?class="heat" src="data:image/jpeg;base64,(?P<heat>.*?)"'
    r'.*?<svg class="boxes" viewBox="0 0 (?P<whole>\d+ \d+)"(?P<boxes>.*?)</svg>'
    r'.*?<strong class="verdict">(?P<verdict>.*?)</strong> <span>overlap (?P<overlap>\d+) %</span>'
    r".*?<dt>true</dt><dd>(?P<truth>.*?)</dd><dt>predicted</dt><dd>(?P<guess>.*?) (?P<share>\d+) %"
    r'.*?class="name">(?P<name>.*?)</span>'
)
BIRDS = ("robin", "tit", "wren")
RECTANGLE = r'<rect class="over {}" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"/>'


@pytest.fixture(scope="module")
def localized(tmp_path_factory: pytest.TempPathFactory) -> Localized:
    return Localized.of(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def page(localized: Localized, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return read_page(localized.write(tmp_path_factory.mktemp("page") / "boxes.html"))


def figures(html: str) -> dict[str, dict[str, str]]:
    """Give what is shown of each picture, by its file's name, in their order."""
    found = (match.groupdict() for match in FIGURE.finditer(html))
    return {Path(unescape(shown["name"])).name: shown for shown in found}


def rectangles(shown: dict[str, str], kind: str) -> list[tuple[float, ...]]:
    found = re.findall(RECTANGLE.format(kind), shown["boxes"])
    return [tuple(map(float, numbers)) for numbers in found]


def decoded(content: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(b64decode(content)))).astype(int)


def test_the_sweep_is_a_table_with_its_best_marked(page: tuple[str, str]) -> None:
    html, text = page
    rows = re.findall(r"<tr>(.*?)</tr>", html.partition('id="sweep"')[2])
    assert [re.findall("<t[hd].*?>(.*?)</t[hd]>", row) for row in rows] == [
        ["threshold", "top-1 error", "top-5 error"],
        ["none", "80.00 %", "80.00 %"],
        ["1 (best)", "60.00 %", "40.00 %"],
        ["100", "100.00 %", "100.00 %"],
    ]
    assert "Top-1 error 60.00 % Top-5 error 40.00 %" in text
    assert "Top-1 error of classes 20.00 % Top-5 error of classes 0.00 %" in text
    assert "Best threshold 1 Threshold of score Seen whole Pictures 5" in text


def test_no_threshold_may_be_the_best(tmp_path: Path) -> None:
    found = Localized.of(tmp_path, (-np.inf, 100.0))
    _, text = read_page(found.write(tmp_path / "boxes.html", 0))
    assert "none (best) 80.00 %" in text
    assert "Best threshold none" in text
    assert text.count("(best)") == 1


def test_pictures_come_by_the_overlap_of_their_boxes(page: tuple[str, str]) -> None:
    html, text = page
    shown = figures(html)
    assert [(name, one["overlap"], one["verdict"]) for name, one in shown.items()] == [
        ("two.png", "0", "✗ wrong"),
        ("pale.png", "0", "✗ wrong"),
        (WIDE, "50", "✗ wrong"),  # half is too little
        ("green.png", "60", "✓ right"),
        ("red.png", "100", "✓ right"),
    ]
    assert all(one["kind"] == one["verdict"][2:] for one in shown.values())
    assert "All 5 pictures by the overlap of the likeliest class's box, the worst first." in text


def test_boxes_are_where_they_are_in_the_picture(page: tuple[str, str]) -> None:
    shown = figures(page[0])
    assert rectangles(shown["red.png"], "true") == [(16, 8, 32, 32)]
    assert rectangles(shown["red.png"], "found") == [(16, 8, 32, 32)]
    assert rectangles(shown["green.png"], "true") == [(40, 16, 32, 32)]
    assert rectangles(shown["green.png"], "found") == [(32, 16, 32, 32)]
    assert rectangles(shown["two.png"], "true") == [(0, 0, 32, 32), (80, 40, 11, 21)]
    assert rectangles(shown["two.png"], "found") == [(48, 0, 48, 64)]
    assert rectangles(shown["pale.png"], "true") == [(0, 0, 96, 32)]
    assert rectangles(shown["pale.png"], "found") == []
    # Shown smaller than it is, but boxes are in its own pixels.
    assert rectangles(shown[WIDE], "found") == [(640, 0, 64, 64)]
    assert decoded(shown[WIDE]["picture"]).shape == (58, 640, 3)
    assert [shown[name]["whole"] for name in ("red.png", WIDE)] == ["96 64", "704 64"]


def test_classes_are_named(page: tuple[str, str]) -> None:
    shown = figures(page[0])
    assert unescape(shown["two.png"]["truth"]) == "<i>red, green"
    assert (shown["two.png"]["guess"], unescape(shown["red.png"]["guess"])) == ("blue", "<i>red")
    means = np.array([16 * 8 + 32 * 8 * 0.098, -64 * 8, 48 * 8]) / 96  # of red, green and blue
    means[0] -= 48 * 8 / 96
    means[2] -= 16 * 8 / 96
    likely = np.exp(means) / np.exp(means).sum()
    assert float(shown["two.png"]["share"]) == pytest.approx(100 * likely[2], abs=1)


def heated(pixel: np.ndarray, share: float) -> np.ndarray:
    """Lay the colour of a share of the heat over a pixel, by half."""
    level = np.array([[round(255 * share)]], np.uint8)
    colour = cv2.applyColorMap(level, cv2.COLORMAP_TURBO)[0, 0, ::-1].astype(int)
    return (pixel + colour) // 2


# Scores of blue are from -8, where it is red, to 8; the shares of what is pale are in between.
@pytest.mark.parametrize(("kind", "pale"), [("score", 8 / 16), ("probability", 0.245)])
def test_the_heat_is_the_likeliest_classs(tmp_path: Path, kind: Kind, pale: float) -> None:
    html, text = read_page(Localized.of(tmp_path, kind=kind).write(tmp_path / "boxes.html"))
    assert f"Threshold of {kind}" in text
    shown = figures(html)["two.png"]
    picture, heat = decoded(shown["picture"]), decoded(shown["heat"])
    for (y, x), colour, share in (
        ((32, 72), PAINT["blue"], 1),
        ((12, 12), PAINT["red"], 0),
        ((52, 36), PALE, pale),
    ):
        assert np.abs(picture[y, x] - colour).max() < 5
        assert np.abs(heat[y, x] - heated(picture[y, x], share)).max() < 10


def test_where_only_the_centre_is_seen_the_sides_are_cold(tmp_path: Path) -> None:
    found = Localized.of(tmp_path, see="centre")
    html, text = read_page(found.write(tmp_path / "boxes.html"))
    assert "Seen centre" in text
    shown = figures(html)["two.png"]
    picture, heat = decoded(shown["picture"]), decoded(shown["heat"])
    for (y, x), share in (((32, 64), 1), ((32, 90), 0)):  # 64 columns are seen, up to 80
        assert np.abs(picture[y, x] - PAINT["blue"]).max() < 5
        assert np.abs(heat[y, x] - heated(picture[y, x], share)).max() < 10
    assert rectangles(shown, "found") == [(48, 0, 32, 64)]


def test_a_networks_page_tells_what_was_found(
    classification_run: Run, birds: Path, tmp_path: Path
) -> None:
    classifier = load_classifier(classification_run.best, ALONE.device, crop=32, resize=40)
    pictures = [
        Located(path, (Box(name, 8, 8, 55, 39),), (number,))
        for number, name in enumerate(BIRDS)
        for path in sorted((birds / "val" / name).iterdir())
    ]
    scores = localize(classifier, pictures, ALONE, (-np.inf, 0.0), each=True)
    found = Localized(classifier, pictures, scores, "whole", "score")
    html, _ = read_page(found.write(tmp_path / "boxes.html"))
    shown = list(FIGURE.finditer(html))
    assert len(shown) == len(pictures)
    overlaps = [int(match["overlap"]) for match in shown]
    assert overlaps == sorted(overlaps)
    by_name = {str(pictures[one.number].image): one for one in scores.pictures}
    for match in shown:
        one = by_name[match["name"]]
        assert match["guess"] == BIRDS[one.classes[0]]
        assert int(match["overlap"]) == round(100 * one.iou[0, scores.best])
        [box] = rectangles(match.groupdict(), "found")
        xmin, ymin, xmax, ymax = one.boxes[0, scores.best]
        assert box == pytest.approx((xmin, ymin, xmax - xmin + 1, ymax - ymin + 1), abs=0.051)


def test_names_of_files_and_classes_are_no_html(localized: Localized, tmp_path: Path) -> None:
    html, text = read_page(localized.write(tmp_path / "boxes.html", checkpoint="runs/<script>/b"))
    assert html.count("<script") == 1
    assert "<i>" not in html
    assert escape(WIDE) in html
    assert WIDE in text
    assert NAMES[0] in text
    assert "<title>Localisation: runs/&lt;script&gt;/b</title>" in html


def test_of_many_pictures_the_worst_and_the_best_are_shown(
    localized: Localized, tmp_path: Path
) -> None:
    html, text = read_page(localized.write(tmp_path / "boxes.html", 3))
    assert list(figures(html)) == ["two.png", "pale.png", "red.png"]
    assert "Of 5 pictures the 2 worst and the 1 best" in text
    html, text = read_page(localized.write(tmp_path / "boxes.html", 0))
    assert "No pictures: none were asked for." in text
    assert "<img" not in html


def test_a_picture_that_is_gone_leaves_the_page_as_it_was(tmp_path: Path) -> None:
    found = Localized.of(tmp_path)
    path = found.write(tmp_path / "page" / "boxes.html", 1)
    before = path.read_bytes()
    (tmp_path / "red.png").unlink()
    with pytest.raises(DrnError, match=r"red\.png"):
        found.write(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["boxes.html"]
