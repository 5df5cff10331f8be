import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.folder import check_folder
from drn_cli.data.audit.report import CheckReport, ClassImages, ClassStats, SplitStats
from drn_cli.errors import DrnError

pytestmark = pytest.mark.usefixtures("here")


def only(report: CheckReport) -> CheckFinding:
    assert len(report.findings) == 1, [str(finding) for finding in report.findings]
    return report.findings[0]


def test_valid_folder_is_reported_without_findings(class_folder: Path) -> None:
    info = {"folders": ["cat", "dog"], "classes": ["Katze", "Hund"]}
    (class_folder / "info.json").write_text(json.dumps(info))
    (class_folder / "train" / "cat" / "notes.txt").write_text("no image, and no matter")
    (class_folder / "train" / "dog" / "2.png").unlink()
    report = check_folder(class_folder)
    assert report.findings == []
    assert report.splits == {
        "train": SplitStats(5, 0, (8, 6), (8, 8), ClassStats(2, 2.5, 3)),
        "val": SplitStats(2, 0, (8, 6), (8, 6), ClassStats(1, 1, 1)),
    }
    assert report.classes == [
        ClassImages("Katze", "cat", {"train": 3, "val": 1}),
        ClassImages("Hund", "dog", {"train": 2, "val": 1}),
    ]
    paths = sorted((class_folder / "train").glob("*/*.png"))
    pixels = np.concatenate([np.asarray(Image.open(p)).reshape(-1, 3) / 255 for p in paths])
    assert report.statistics is not None
    assert report.statistics.mean == pytest.approx(pixels.mean(axis=0), abs=1e-7)
    assert report.statistics.std == pytest.approx(pixels.std(axis=0), abs=1e-7)
    document = json.loads(json.dumps(report.to_json()))
    assert document["splits"]["train"]["images_per_class"] == {"min": 2, "median": 2.5, "max": 3}
    assert (document["classes"], document["class_weights"]) == (2, {})


def test_unreadable_image(class_folder: Path) -> None:
    path = class_folder / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:70])
    finding = only(check_folder(class_folder))
    assert (finding.severity, finding.kind, finding.file) == ("error", "unreadable", path)


def test_training_image_in_validation_split(class_folder: Path) -> None:
    path = class_folder / "val" / "dog" / "other.png"
    shutil.copy(class_folder / "train" / "dog" / "2.png", path)
    finding = only(check_folder(class_folder))
    assert (finding.severity, finding.kind, finding.file) == ("error", "duplicate", path)


def test_image_in_two_classes_is_a_warning(class_folder: Path) -> None:
    shutil.copy(class_folder / "train/cat/0.png", class_folder / "train/dog/9.png")
    finding = only(check_folder(class_folder))
    assert (finding.severity, finding.kind) == ("warning", "duplicate")
    assert str(class_folder / "train" / "cat" / "0.png") in finding.message


def test_classes_without_images_are_warnings(class_folder: Path) -> None:
    (class_folder / "train" / "fox").mkdir()
    shutil.rmtree(class_folder / "val" / "cat")
    report = check_folder(class_folder)
    assert [(f.severity, f.kind, f.message) for f in report.findings] == [
        ("warning", "class-folder", "has no images"),
        ("warning", "class-folder", "is missing"),
        ("warning", "class-folder", "is missing"),
    ]
    assert [f.file.relative_to(class_folder).as_posix() for f in report.findings] == [
        "train/fox",
        "val/cat",
        "val/fox",
    ]


def test_class_only_in_validation(class_folder: Path) -> None:
    (class_folder / "val" / "fox").mkdir()
    finding = only(check_folder(class_folder))
    assert (finding.severity, finding.file) == ("error", class_folder / "val" / "fox")


def test_images_outside_class_folders(class_folder: Path) -> None:
    (class_folder / "val" / "dog" / "0.png").rename(class_folder / "val" / "a.JPEG")
    (class_folder / "val" / "cat" / "0.png").rename(class_folder / "val" / "b.JPEG")
    report = check_folder(class_folder)
    error = report.findings[0]
    assert (error.severity, error.file) == ("error", class_folder / "val")
    assert "contains 2 images outside class folders, such as a.JPEG" in error.message


def test_skipped_files_are_reported_once(
    class_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "drn_cli")
    (class_folder / "train" / "dog" / "notes.txt").touch()
    (class_folder / "val" / "dog" / "more").mkdir()
    finding = only(check_folder(class_folder))
    assert (finding.severity, finding.kind, finding.file) == (
        *("warning", "left-out"),
        class_folder / "val",
    )
    assert caplog.messages == [
        f"{class_folder / 'train'}: left out: unsupported extension 1 (dog/notes.txt)"
    ]


def test_training_needs_a_validation_split(class_folder: Path) -> None:
    shutil.rmtree(class_folder / "val")
    report = check_folder(class_folder)
    finding = only(report)
    assert (finding.severity, finding.file) == ("error", class_folder / "val")
    assert report.splits["val"] == SplitStats(0, 0, None, None, ClassStats(0, 0, 0))
    assert check_folder(class_folder, splits=["train"]).findings == []


def test_option_classes_is_rejected(class_folder: Path) -> None:
    with pytest.raises(DrnError, match="--classes is for label maps"):
        check_folder(class_folder, classes=2)


def test_missing_split(class_folder: Path) -> None:
    with pytest.raises(DrnError, match="has no test split"):
        check_folder(class_folder, splits=["test"])


def test_folder_of_neither_kind(class_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "train").mkdir(parents=True)
    with pytest.raises(DrnError, match=r"neither lists .* nor class folders") as caught:
        check_folder(tmp_path / "other")
    assert "drn data prepare" in str(caught.value.hint)
    with pytest.raises(DrnError, match="no such folder"):
        check_folder(tmp_path / "absent")
    with pytest.raises(DrnError, match="contains no lists"):
        check_folder(class_folder, lists=tmp_path / "other")
