import re
from html import unescape
from typing import Any

import numpy as np
import pytest

from drn_cli.report.class_scores import class_scores, confusion_matrix


def scores(count: int, matrix: Any = None) -> dict[str, Any]:
    iou = {f"class {n}": n / count for n in range(count)}
    return {"step": 30, "epoch": 3, "images": 5, "iou": iou, "confusion_matrix": matrix}


def cells(html: str) -> list[list[str]]:
    """Give the text of all tables, row by row."""
    rows = re.findall("<tr>(.*?)</tr>", html)
    return [
        [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<t[hd].*?>.*?</t[hd]>", row)]
        for row in rows
    ]


MATRIX = [[90, 10, 0], [30, 10, 0], [0, 0, 0]]


@pytest.fixture
def html() -> str:
    iou = {"road": 0.5, "<car>": 0.25, "sky": None}
    made = scores(3, MATRIX) | {"iou": iou}
    return class_scores(made, {"road": (1, 2, 3), "<car>": (4, 5, 6)})


def test_each_class_has_a_bar_and_its_numbers(html: str) -> None:
    assert "in the best validation, epoch 3, step 30, 5 pictures" in html
    assert cells(html)[1:4] == [
        ["road", "", "50.0 %", "71.4 %"],
        ["<car>", "", "25.0 %", "28.6 %"],
        ["sky", "", "absent", "0.0 %"],
    ]
    assert re.findall("width:(.*?)%", html) == ["50.0", "25.0", "0.0"]
    assert html.count('class="swatch"') == 2
    assert "rgb(4, 5, 6)" in html


def test_the_matrix_is_in_shares_of_the_labels(html: str) -> None:
    assert cells(html)[4:8] == [
        ["label ↓ prediction →", "road", "<car>", "sky"],
        ["road", "90", "10", "·"],
        ["<car>", "75", "25", "·"],
        ["sky", "·", "·", "·"],
    ]
    assert 'title="&lt;car&gt; taken for road: 75.00 %, 30 pixels"' in html
    assert html.count('class="deep') == 2
    assert html.count('right"') == 3


def test_mistakes_are_listed_by_their_pixels(html: str) -> None:
    assert cells(html)[9:] == [
        ["<car>", "road", "75.0 %", "30"],
        ["road", "<car>", "10.0 %", "10"],
    ]


def test_a_network_without_mistakes() -> None:
    assert "No pixel was taken for another class" in class_scores(scores(2, [[3, 0], [0, 4]]), {})


def test_a_single_class() -> None:
    html = class_scores(scores(1, [[7]]) | {"iou": {"all": 1.0}}, {})
    assert ["all", "", "100.0 %", "100.0 %"] in cells(html)
    assert ["all", "100"] in cells(html)


def test_without_a_matrix_the_bars_remain() -> None:
    html = class_scores(scores(2), {})
    assert "kept no confusion matrix" in html
    assert ["class 1", "", "50.0 %"] in cells(html)


@pytest.mark.parametrize("wrong", [None, [[1]], [[1, 2]], [["x", 1], [1, 2]], "x", [[1, 2], [3]]])
def test_what_is_no_matrix_of_the_classes(wrong: Any) -> None:
    assert confusion_matrix({"confusion_matrix": wrong}, 2) is None


@pytest.mark.parametrize("given", [{}, {"iou": {}}, {"iou": 3}, {"top1": 0.5}])
def test_scores_without_classes_have_no_section(given: dict[str, Any]) -> None:
    assert class_scores(given, {}) == ""


def test_of_many_classes_the_best_and_the_worst_are_shown() -> None:
    html = class_scores(scores(200), {})
    assert "The 30 best of 200 classes" in html
    assert "The 30 worst of 200 classes" in html
    shown = [row[0] for row in cells(html) if row[0].startswith("class ")]
    assert shown == [f"class {n}" for n in (*range(199, 169, -1), *range(29, -1, -1))]


def test_of_a_large_matrix_the_worst_classes_are_shown_without_numbers() -> None:
    matrix = np.eye(200, dtype=int) * 5
    matrix[3, 7] = 15
    html = class_scores(scores(200, matrix.tolist()), {})
    assert "Of 200 classes, the 40 with the lowest IoU are shown." in html
    assert html.count("taken for class 7:") == 40
    assert "class 3 taken for class 7: 75.00 %, 15 pixels" in html
    assert "class 40 taken" not in html
    assert 'class="heat small"' in html
    assert ["class 3", "class 7", "75.0 %", "15"] in cells(html)
