"""Pages of real scores: of a segmenter, of predictions, of a classifier."""

import io
import re
import shutil
from base64 import b64decode
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.classes import ClassSet, cityscapes
from drn_cli.errors import DrnError
from drn_cli.evaluation.confusion import Matrix, Scores
from drn_cli.report.evaluation import command_line, intro, worst_and_best, write_segmentation_page
from drn_cli.report.pictures import SegmentedPicture
from drn_cli.runs import Run

from .outline import Outline, read_page
from .scored import ABOUT, Classified, Segmented

EVIL = "<script>alert(1)<&\"'.png"
PAIR = ClassSet(("red", "green"), ((200, 40, 40), (40, 200, 40)))


@pytest.fixture(scope="module")
def segmented(segmentation_run: Run, data_folder: Path) -> Segmented:
    return Segmented.of(segmentation_run, data_folder)


@pytest.fixture(scope="module")
def classified(classification_run: Run, birds: Path) -> Classified:
    return Classified.of(classification_run, birds)


def captions(html: str) -> list[tuple[str, str]]:
    """Give name and scores of the pictures of a segmenter, in their order."""
    caption = '<figcaption><span class="name">(.*?)</span> <span>(.*?)</span></figcaption>'
    return [(unescape(name), said) for name, said in re.findall(caption, html)]


def counted(segmented: Segmented) -> np.ndarray:
    """Count the pixels of each label and prediction of each picture: `(pictures, 3, 3)`."""
    matrices = []
    for sample in segmented.samples:
        assert sample.label is not None
        label = np.asarray(Image.open(sample.label))
        prediction = segmented.predictor(np.asarray(Image.open(sample.image))).numpy()
        matrices.append(
            [[np.sum((label == a) & (prediction == b)) for b in range(3)] for a in range(3)]
        )
    return np.array(matrices)


def iou(matrix: np.ndarray) -> np.ndarray:
    right = np.diag(matrix)
    return right / (matrix.sum(0) + matrix.sum(1) - right)


def page_of(path: Path, matrix: Matrix, class_set: ClassSet, **about: object) -> tuple[str, str]:
    """Write and read a page without pictures."""
    scores = Scores.of(matrix, 5)

    def show(number: int) -> SegmentedPicture:
        raise AssertionError(number)

    told = ABOUT | about | scores.to_json(class_set)
    write_segmentation_page(path, told, scores, class_set, show, 0)
    return read_page(path)


def test_a_segmenters_page_tells_its_scores(segmented: Segmented, tmp_path: Path) -> None:
    html, text = read_page(segmented.write(tmp_path / "eval.html"))
    each = counted(segmented)
    matrix = each.sum(0)
    assert "<title>runs/easy/best.safetensors, val</title>" in html
    assert f"mIoU {100 * iou(matrix).mean():.2f} %" in text
    assert f"Pixel accuracy {100 * np.trace(matrix) / matrix.sum():.2f} %" in text
    assert "Mean accuracy" in text
    assert "Frequency-weighted IoU" in text
    assert "Pictures 5" in text
    assert "Intersection over union over 5 pictures." in text
    for number, name in enumerate(("red", "green", "blue")):
        share = matrix[number].sum() / matrix.sum()
        assert f"{name} {100 * iou(matrix)[number]:.1f} % {100 * share:.1f} %" in text
        taken = f"{name} taken for red: "
        assert re.search(f"{taken}[0-9.]+ %, {matrix[number, 0]:,} pixels", html)
    for colour in ("rgb(200, 40, 40)", "rgb(40, 40, 200)"):
        assert html.count(f'style="background:{colour}"') == 2  # beside its bar and in the key
    assert [path.name for path in tmp_path.iterdir()] == ["eval.html"]


def test_pictures_come_from_the_worst_to_the_best(segmented: Segmented, tmp_path: Path) -> None:
    html, text = read_page(segmented.write(tmp_path / "eval.html"))
    each = counted(segmented)
    mious = [np.nanmean(iou(matrix)) for matrix in each]
    rights = [np.trace(matrix) / matrix.sum() for matrix in each]
    order = np.argsort(mious)
    assert captions(html) == [
        (f"{100 + k}.png", f"mIoU {100 * mious[k]:.1f} %, {100 * rights[k]:.1f} % right")
        for k in order
    ]
    assert list(order) != sorted(order)
    assert "All 5 pictures by mIoU, the worst first." in text


@pytest.mark.parametrize(("count", "worst", "best"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (4, 2, 2)])
def test_of_many_pictures_the_worst_and_the_best_are_shown(
    segmented: Segmented, tmp_path: Path, count: int, worst: int, best: int
) -> None:
    whole = captions(segmented.write(tmp_path / "whole.html").read_text())
    html, text = read_page(segmented.write(tmp_path / "eval.html", count))
    assert captions(html) == whole[:worst] + whole[5 - best :]
    assert html.count("<img") == 4 * count
    assert intro(count, 5, "mIoU") in text


def test_worst_and_best() -> None:
    assert worst_and_best(range(7), 4) == [0, 1, 5, 6]
    assert worst_and_best(range(7), 5) == [0, 1, 2, 5, 6]
    assert worst_and_best(range(7), 1) == [0]
    assert worst_and_best(range(7), 0) == []
    assert worst_and_best(range(3), 3) == worst_and_best(range(3), 9) == [0, 1, 2]


def test_the_choice_is_told_in_words() -> None:
    assert intro(3, 3, "size") == "All 3 pictures by size, the worst first."
    said = "Of 9 pictures the 3 worst and the 2 best by size, the worst first."
    assert intro(5, 9, "size") == said


def test_a_single_picture_is_the_worst_and_no_best_is_spoken_of() -> None:
    said = intro(1, 9, "size")
    assert "worst" in said
    assert "best" not in said


def test_no_pictures_where_none_were_asked_for(segmented: Segmented, tmp_path: Path) -> None:
    html, text = read_page(segmented.write(tmp_path / "eval.html", 0))
    assert "No pictures: none were asked for." in text
    assert "<img" not in html
    assert "Pictures 5" in text


def test_a_picture_without_a_label_is_counted_but_not_ranked(
    segmentation_run: Run, own_data_folder: Path, tmp_path: Path
) -> None:
    void = own_data_folder / "labels" / "102.png"
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(void)
    html, text = read_page(
        Segmented.of(segmentation_run, own_data_folder).write(tmp_path / "eval.html")
    )
    assert sorted(name for name, _ in captions(html)) == [
        f"{number}.png" for number in (100, 101, 103, 104)
    ]
    assert "All 4 pictures by mIoU" in text
    assert "Pictures 5" in text


def test_the_protocol_is_quoted_whole(segmented: Segmented, tmp_path: Path) -> None:
    protocol = {"text": "Scored with <care> & $5.", "images": "made/<b>", "labels": "gtFine/val"}
    html, text = read_page(segmented.write(tmp_path / "eval.html", 0, protocol=protocol))
    assert "Protocol Scored with <care> & $5." in text
    assert "<title>made/&lt;b&gt; against gtFine/val</title>" in html
    assert "<care>" not in html


def test_without_a_protocol_none_is_announced(segmented: Segmented, tmp_path: Path) -> None:
    _, text = read_page(segmented.write(tmp_path / "eval.html", 0))
    assert "Protocol" not in text


def test_the_command_is_told_as_it_may_be_typed_again(
    segmented: Segmented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["eval", "my run", "--report", "a&b.html"]
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/drn", *words])
    assert command_line() == "drn eval 'my run' --report 'a&b.html'"
    html, text = read_page(segmented.write(tmp_path / "eval.html", 0))
    assert "drn eval 'my run' --report 'a&b.html'" in text
    assert "a&b" not in html


def test_names_of_files_and_classes_are_no_html(
    segmentation_run: Run, own_data_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(own_data_folder / "pictures" / "100.png", own_data_folder / "pictures" / EVIL)
    listed = own_data_folder / "val_images.txt"
    listed.write_text(listed.read_text().replace("100.png", EVIL))
    path = tmp_path / "eval.html"
    Segmented.of(segmentation_run, own_data_folder).write(path, checkpoint=f"runs/{EVIL}")
    html, text = read_page(path)
    assert html.count("<script") == 1
    assert EVIL not in html
    assert escape(EVIL) in html
    assert EVIL in text
    matrix = np.array([[3, 1, 0], [1, 3, 0]])
    html, text = page_of(path, matrix, ClassSet((EVIL, "green"), PAIR.colours))
    assert html.count("<script") == 1
    assert EVIL in text
    assert Outline(html).sources == ["data:,"]


def test_names_that_are_no_unicode_are_shown_somehow(segmented: Segmented, tmp_path: Path) -> None:
    """As Python reads the byte 255 in a file's name."""
    path = segmented.write(tmp_path / "eval.html", 0, checkpoint="runs/a\udcff.pth")
    assert "<title>runs/a" in path.read_text(encoding="utf-8")


def test_classes_that_occur_nowhere_are_told(tmp_path: Path) -> None:
    three = ClassSet((*PAIR.names, "<blue>"), (*PAIR.colours, (40, 40, 200)))
    matrix = np.array([[6, 2, 0, 0], [1, 7, 0, 0], [0, 0, 0, 0]])
    _, text = page_of(tmp_path / "eval.html", matrix, three)
    assert "Absent classes, not in the mean <blue>" in text
    assert "<blue> absent" in text
    assert f"mIoU {100 * (6 / 9 + 7 / 10) / 2:.2f} %" in text
    _, text = page_of(tmp_path / "eval.html", matrix[:2, [0, 1, 3]], PAIR)
    assert "Absent" not in text


def test_categories_are_told_where_there_are_any(tmp_path: Path) -> None:
    matrix = np.zeros((19, 20), np.int64)
    matrix[0, 0], matrix[0, 1], matrix[1, 1], matrix[10, 10] = 6, 2, 4, 5
    matrix[10, 0] = 3  # sky taken for road, which is of another category
    _, text = page_of(tmp_path / "eval.html", matrix, cityscapes())
    assert f"mIoU of categories {100 * (12 / 15 + 5 / 8) / 2:.2f} %" in text


def test_void_predictions_are_part_of_the_label_they_miss(tmp_path: Path) -> None:
    """Of red, 50 pixels are right, 30 green and 20 void: half of it is right, not five eighths."""
    html, text = page_of(tmp_path / "eval.html", np.array([[50, 30, 20], [0, 100, 0]]), PAIR)
    assert "Mean accuracy 75.00 %" in text
    assert "red taken for red: 50.00 %, 50 pixels" in html
    assert "red taken for green: 30.00 %, 30 pixels" in html
    assert "red green 30.0 % 30" in text
    assert re.search(r"red 50\.0 % 50\.0 % green", text)  # IoU, and share of the labels


def test_a_picture_that_is_gone_leaves_the_page_as_it_was(
    segmentation_run: Run, own_data_folder: Path, tmp_path: Path
) -> None:
    segmented = Segmented.of(segmentation_run, own_data_folder)
    path = segmented.write(tmp_path / "page" / "eval.html", 1)
    before = path.read_bytes()
    (own_data_folder / "pictures" / "103.png").write_bytes(b"no picture")
    with pytest.raises(DrnError, match=r"103\.png"):
        segmented.write(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["eval.html"]


def test_a_page_that_cannot_be_written_is_said(segmented: Segmented, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DrnError, match=r"eval\.html: cannot be written"):
        segmented.write(tmp_path / "file" / "eval.html", 0)


def test_a_classifiers_page(classified: Classified, tmp_path: Path) -> None:
    html, text = read_page(classified.write(tmp_path / "eval.html"))
    scores = classified.scores
    assert 0 < scores.top1 < 1
    assert f"Top-1 accuracy {100 * scores.top1:.2f} % Top-5 accuracy 100.00 %" in text
    assert "Pictures 6 View 1-crop" in text
    assert "All 6 pictures by the place of the true class, the worst first." in text
    shown = re.findall(
        r'<figure class="(\w+)">.*?base64,(.*?)".*?<strong class="verdict">(.*?)</strong>'
        r'.*?<dd>(\w+)</dd><dt>predicted</dt><dd>(\w+) (\d+) %</dd>.*?class="name">(.*?)<',
        html,
    )
    by_name = {one.image: one for one in scores.pictures}
    ranks = []
    for kind, content, verdict, truth, guess, share, name in shown:
        one = by_name.pop(unescape(name))
        ranks.append(one.rank)
        assert (kind, verdict) == (("right", "✓ right") if one.rank == 1 else ("wrong", "✗ wrong"))
        assert truth == Path(one.image).parent.name
        assert guess == classified.classifier.names[one.best[0]]
        assert float(share) == pytest.approx(100 * one.probabilities[0], abs=0.51)
        assert Image.open(io.BytesIO(b64decode(content))).size == (32, 32)
    assert not by_name
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) > 1


def test_of_a_classifier_the_worst_and_the_best_are_shown(
    classified: Classified, tmp_path: Path
) -> None:
    names = '<span class="name">(.*?/val/.*?)</span>'
    whole = re.findall(names, classified.write(tmp_path / "whole.html").read_text())
    html, text = read_page(classified.write(tmp_path / "eval.html", 3))
    assert re.findall(names, html) == [*whole[:2], whole[-1]]
    assert "Of 6 pictures the 2 worst and the 1 best" in text
    _, text = read_page(classified.write(tmp_path / "none.html", 0))
    assert "No pictures: none were asked for." in text
