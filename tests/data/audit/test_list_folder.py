"""Each fault planted in a valid folder is found, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.folder import check_folder
from drn_cli.data.audit.report import CheckReport, SplitStats
from drn_cli.errors import DrnError

ORIENTATION = 0x0112

pytestmark = pytest.mark.usefixtures("here")


def write_label(folder: Path, name: str, label: np.ndarray) -> Path:
    path = folder / "labels" / name
    Image.fromarray(label).save(path)
    return path


def only(report: CheckReport) -> CheckFinding:
    assert len(report.findings) == 1, [str(finding) for finding in report.findings]
    return report.findings[0]


def change_info(folder: Path, **changes: object) -> None:
    path = folder / "info.json"
    info = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def test_valid_folder_is_reported_without_findings(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = check_folder(folder, progress=lambda done, total: seen.append((done, total)))
    assert report.findings == []
    assert (report.errors, report.warnings) == (0, 0)
    assert seen == [(n, 13) for n in range(1, 14)]  # 7 images, 6 labels
    assert report.splits == {
        "train": SplitStats(4, 4, (8, 6), (8, 6)),
        "val": SplitStats(2, 2, (8, 6), (8, 6)),
        "test": SplitStats(1, 0, (8, 6), (8, 6)),
    }
    info = json.loads((folder / "info.json").read_text())
    assert report.statistics is not None
    assert report.statistics.mean == pytest.approx(info["mean"], abs=1e-7)
    assert report.statistics.std == pytest.approx(info["std"], abs=1e-7)
    labels = np.stack([np.asarray(Image.open(folder / f"labels/{n}.png")) for n in range(4)])
    counts = np.bincount(labels.ravel(), minlength=256)[:3]
    assert [entry.pixels for entry in report.classes] == counts.tolist()
    assert [entry.share for entry in report.classes] == pytest.approx(counts / counts.sum())
    assert [(entry.name, entry.images) for entry in report.classes] == [
        ("red", 4),
        ("green", 4),
        ("blue", 4),
    ]
    assert {name: len(each) for name, each in report.class_weights.items()} == {
        "median_frequency": 3,
        "enet": 3,
    }
    assert (report.highest_label, report.class_count) == (2, 3)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("This is no image.\n")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [(half, "broken image: "), (empty, "the file is empty"), (text, "not an image in a known")],
)
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_unreadable_file(
    folder: Path, kind: str, spoil: Callable[[Path], None], problem: str
) -> None:
    path = folder / kind / "4.png"
    spoil(path)
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind, finding.file) == ("error", "unreadable", path)
    assert str(finding.listed) == f"val_{kind}.txt:1"
    assert finding.message.startswith(problem)
    assert str(path) not in finding.message  # it is said once
    assert str(finding).count(str(path)) == 1


def test_missing_files_are_reported_with_their_lines(folder: Path) -> None:
    (folder / "images" / "1.png").unlink()
    (folder / "labels" / "5.png").unlink()
    (folder / "images" / "6.png").unlink()
    (folder / "images" / "6.png").mkdir()
    report = check_folder(folder)
    found = [(f.severity, f.kind, f.file.parent.name, str(f.listed)) for f in report.findings]
    assert found == [
        ("error", "missing", "images", "train_images.txt:2"),
        ("error", "missing", "labels", "val_labels.txt:2"),
        ("error", "missing", "images", "test_images.txt:1"),
    ]
    assert report.findings[2].message == "is not a file"
    assert str(folder) in str(report.findings[0].hint)
    assert report.splits["test"].smallest is None


def test_line_numbers_include_empty_lines(folder: Path) -> None:
    (folder / "val_images.txt").write_text("\nimages/4.png\n\nimages/x.png\n")
    assert str(only(check_folder(folder)).listed) == "val_images.txt:4"


def test_missing_line_is_located(folder: Path) -> None:
    (folder / "train_labels.txt").write_text("labels/0.png\nlabels/1.png\nlabels/3.png\n")
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind) == ("error", "list")
    assert finding.file == folder / "train_labels.txt"
    assert "lists 3 files, train_images.txt 4" in finding.message
    assert finding.hint == "the names stop matching at line 3: 2.png and 3.png"


def test_missing_last_line_has_no_hint(folder: Path) -> None:
    (folder / "train_labels.txt").write_text("labels/0.png\nlabels/1.png\nlabels/2.png\n")
    assert only(check_folder(folder)).hint is None


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such list"), (b"", "the list is empty"), (b"\xff\xfe", "not UTF-8 text")],
)
@pytest.mark.parametrize("name", ["train_labels.txt", "val_images.txt"])
def test_unusable_list(folder: Path, name: str, content: bytes | None, message: str) -> None:
    path = folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind, finding.file) == ("error", "list", path)
    assert message in finding.message


def test_training_needs_a_validation_split_but_prediction_needs_none(folder: Path) -> None:
    for name in ("val_images.txt", "val_labels.txt"):
        (folder / name).unlink()
    report = check_folder(folder)
    assert [f.file.name for f in report.findings] == ["val_images.txt", "val_labels.txt"]
    assert check_folder(folder, splits=["train"]).findings == []
    (folder / "train_images.txt").unlink()
    (folder / "train_labels.txt").unlink()
    report = check_folder(folder)
    assert report.findings == []
    assert (report.statistics, list(report.classes)) == (None, [])


def test_label_of_another_size(folder: Path) -> None:
    path = write_label(folder, "2.png", np.zeros((8, 6), np.uint8))
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind, finding.file) == ("error", "size", path)
    assert finding.message == f"is 6x8, its image {folder / 'images' / '2.png'} is 8x6"
    assert str(finding.listed) == "train_labels.txt:3"


def test_image_rotated_by_exif_fits_its_upright_label(folder: Path) -> None:
    stored = Image.fromarray(np.random.default_rng(3).integers(0, 256, (8, 6, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored.save(folder / "images" / "4.jpg", exif=exif)
    (folder / "val_images.txt").write_text("images/4.jpg\nimages/5.png\n")
    report = check_folder(folder)
    assert report.findings == []
    assert report.splits["val"].largest == (8, 6)


def test_invalid_value(folder: Path) -> None:
    label = np.zeros((6, 8), np.uint8)
    label[2, :5], label[3, 0] = 200, 3
    path = write_label(folder, "1.png", label)
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind, finding.file) == ("error", "label-values", path)
    assert finding.values == {3: 1, 200: 5}
    assert "has the values 3 (1 px), 200 (5 px); " in finding.message
    assert "0 to 2, or 255" in finding.message


def test_value_above_255_is_invalid_without_number_of_classes(folder: Path) -> None:
    label = np.zeros((6, 8), np.uint16)
    label[0, :2] = 300
    path = folder / "labels" / "0.png"
    Image.fromarray(label).save(path)
    assert only(check_folder(folder)).values == {300: 2}
    change_info(folder, classes=None)
    finding = only(check_folder(folder))
    assert (finding.kind, finding.values) == ("label-values", {300: 2})
    assert "labels are 0 to 255" in finding.message


@pytest.mark.parametrize(
    ("gray", "words"), [(False, "color image (RGB)"), (True, "its values in RGB")]
)
def test_color_label(folder: Path, gray: bool, words: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 3, (6, 8, 1 if gray else 3)).astype(np.uint8)
    path = write_label(folder, "5.png", np.broadcast_to(pixels, (6, 8, 3)).copy())
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind, finding.file) == ("error", "colour-label", path)
    assert words in finding.message
    assert ("channels are equal" in str(finding.hint)) is gray


def test_color_label_of_another_size_has_two_findings(folder: Path) -> None:
    write_label(folder, "5.png", np.random.default_rng(2).integers(0, 9, (3, 3, 3), np.uint8))
    assert [finding.kind for finding in check_folder(folder).findings] == ["size", "colour-label"]


def test_label_ids_are_one_finding(folder: Path) -> None:
    for number in range(4):
        write_label(
            folder, f"{number}.png", np.array([[7, 26, 33, 3, 4, 23, 21, 11]] * 6, np.uint8)
        )
    report = check_folder(folder, classes=19)
    # info.json names three classes
    (info, finding) = [f for f in report.findings if f.severity == "error"]
    assert (info.kind, finding.kind) == ("info", "label-ids")
    assert "4 of 4 labels" in finding.message
    assert "drn data prepare cityscapes" in str(finding.hint)
    assert str(finding.listed) == "train_labels.txt:1"


def test_training_image_in_validation_split_under_another_name(folder: Path) -> None:
    shutil.copy(folder / "images" / "3.png", folder / "images" / "5.png")
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind) == ("error", "duplicate")
    assert finding.file == folder / "images" / "5.png"
    assert str(finding.listed) == "val_images.txt:2"
    assert f"{folder / 'images' / '3.png'} (train_images.txt:4)" in finding.message


def test_same_pixels_in_another_format_are_a_duplicate(folder: Path) -> None:
    Image.open(folder / "images" / "0.png").save(folder / "images" / "6.bmp")
    (folder / "test_images.txt").write_text("images/6.bmp\n")
    assert only(check_folder(folder)).severity == "error"


def test_same_path_in_two_splits(folder: Path) -> None:
    for kind in ("images", "labels"):
        with (folder / f"val_{kind}.txt").open("a") as file:
            file.write(f"{kind}/0.png\n")
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind) == ("error", "duplicate")
    assert finding.message == "is listed twice, also as a train image (train_images.txt:1)"
    assert str(finding.listed) == "val_images.txt:3"


def test_duplicates_without_training_images_are_warnings(folder: Path) -> None:
    shutil.copy(folder / "images" / "4.png", folder / "images" / "5.png")
    shutil.copy(folder / "images" / "4.png", folder / "images" / "6.png")
    report = check_folder(folder)
    assert [f.file.name for f in report.findings] == ["5.png", "6.png"]
    assert {(f.severity, f.kind) for f in report.findings} == {("warning", "duplicate")}


def test_label_without_labeled_pixels(folder: Path) -> None:
    path = write_label(folder, "4.png", np.full((6, 8), 255, np.uint8))
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind, finding.file) == ("warning", "void", path)


def test_class_without_training_pixels(folder: Path) -> None:
    for number in range(4):
        write_label(folder, f"{number}.png", np.array([[0, 0, 2, 2, 2, 2, 2, 255]] * 6, np.uint8))
    report = check_folder(folder)
    finding = only(report)
    assert (finding.severity, finding.kind) == ("warning", "unlabelled-class")
    assert "green (1)" in finding.message
    assert [entry.images for entry in report.classes] == [4, 0, 4]


def test_jpeg_label_is_a_warning(folder: Path) -> None:
    Image.fromarray(np.ones((6, 8), np.uint8)).save(folder / "labels" / "5.jpg", quality=100)
    (folder / "val_labels.txt").write_text("labels/4.png\nlabels/5.jpg\n")
    finding = only(check_folder(folder))
    assert (finding.severity, finding.kind) == ("warning", "lossy-label")


def test_swapped_lines_are_warnings(folder: Path) -> None:
    for kind in ("images", "labels"):
        for number in range(10, 16):
            noise = np.random.default_rng(number).integers(0, 3, (6, 8, 3)).astype(np.uint8)
            pixels = noise if kind == "images" else noise[..., 0]
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")
    names = [f"{number}.png" for number in range(10, 16)]
    (folder / "val_images.txt").write_text("".join(f"images/{name}\n" for name in names))
    names[1], names[4] = names[4], names[1]
    (folder / "val_labels.txt").write_text("".join(f"labels/{name}\n" for name in names))
    report = check_folder(folder)
    assert {(f.severity, f.kind) for f in report.findings} == {("warning", "pairing")}
    assert [str(f.listed) for f in report.findings] == ["val_labels.txt:2", "val_labels.txt:5"]


def test_values_are_not_checked_without_number_of_classes(folder: Path) -> None:
    change_info(folder, classes=None)
    write_label(folder, "0.png", np.full((6, 8), 7, np.uint8))
    report = check_folder(folder)
    assert report.findings == []
    assert (report.highest_label, report.class_count) == (7, None)
    assert [entry.name for entry in report.classes] == [f"class {n}" for n in range(8)]
    assert [entry.pixels for entry in report.classes][3:] == [0, 0, 0, 0, 48]
    judged = check_folder(folder, classes=7)
    assert [f.kind for f in judged.findings if f.severity == "error"] == ["label-values"]
    assert "if 7 means void" in str(judged.findings[0].hint)


def test_lists_in_another_folder(folder: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    for path in [*folder.glob("*.txt"), folder / "info.json"]:
        path.rename(lists / path.name)
    report = check_folder(folder, lists=lists)
    assert report.findings == []
    assert report.splits["train"].images == 4
    (lists / "val_labels.txt").unlink()
    assert only(check_folder(folder, lists=lists)).file == lists / "val_labels.txt"


def test_reads_only_the_chosen_splits(folder: Path) -> None:
    (folder / "images" / "0.png").unlink()
    report = check_folder(folder, splits=["val"])
    assert report.findings == []
    assert list(report.splits) == ["val"]
    with pytest.raises(DrnError, match="has no test split") as caught:
        (folder / "test_images.txt").unlink()
        check_folder(folder, splits=["test"])
    assert caught.value.hint == "it has train, val"


def test_folder_without_readable_files(folder: Path) -> None:
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "labels")
    report = check_folder(folder)
    assert {finding.kind for finding in report.findings} == {"missing"}
    assert len(report.findings) == 13


def test_many_faults_in_one_folder_are_all_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # in processes, as in reality
    half(folder / "images" / "6.png")
    label = np.zeros((6, 8), np.uint8)
    label[:, 0] = 200
    write_label(folder, "1.png", label)
    write_label(folder, "2.png", np.zeros((5, 8), np.uint8))
    empty(folder / "labels" / "3.png")
    shutil.copy(folder / "images" / "3.png", folder / "images" / "4.png")
    write_label(folder, "4.png", np.full((6, 8), 255, np.uint8))
    (folder / "val_labels.txt").write_text("labels/4.png\nlabels/9.png\n")
    (folder / "test_labels.txt").write_text("labels/4.png\nlabels/5.png\n")
    change_info(folder, mean=[0, 0, 0])
    report = check_folder(folder)
    assert [(f.severity, f.kind, f.file.name) for f in report.findings] == [
        ("error", "list", "test_labels.txt"),
        ("error", "missing", "9.png"),
        ("error", "unreadable", "3.png"),
        ("error", "unreadable", "6.png"),
        ("error", "size", "2.png"),
        ("error", "label-values", "1.png"),
        ("error", "duplicate", "4.png"),
        ("warning", "void", "4.png"),
        ("warning", "void", "4.png"),
        ("warning", "statistics", "info.json"),
    ]
    assert (report.errors, report.warnings) == (7, 3)
    document = json.loads(json.dumps(report.to_json()))
    assert document["ok"] is False
    assert document["findings"][5] == {
        "severity": "error",
        "kind": "label-values",
        "file": str(folder / "labels" / "1.png"),
        "list": "train_labels.txt",
        "line": 2,
        "message": report.findings[5].message,
        "hint": report.findings[5].hint,
        "values": [{"value": 200, "pixels": 6}],
    }
