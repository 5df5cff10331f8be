"""Checks of info.json."""

import json
from pathlib import Path

import pytest

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.folder import check_folder
from drn_cli.data.audit.report import CheckReport

pytestmark = pytest.mark.usefixtures("here")


def only(report: CheckReport) -> CheckFinding:
    assert len(report.findings) == 1, [str(finding) for finding in report.findings]
    return report.findings[0]


def change_info(folder: Path, **changes: object) -> None:
    path = folder / "info.json"
    info = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "severity", "kind", "words"),
    [
        ({"mean": [0.1, 0.5, 0.5]}, "warning", "statistics", "mean is 0.1000, 0.5000, 0.5000"),
        ({"std": [0.3, 0.3, 0.1]}, "warning", "statistics", "std is 0.3000, 0.3000, 0.1000"),
        ({"mean": None}, "error", "info", "mean has to be three numbers"),
        ({"std": [0, 0.3, 0.3]}, "error", "info", "std has to be three numbers in 1e-06..1"),
        ({"colours": [[0, 0, 0]]}, "error", "info", "has 3 classes and 1 colours"),
        ({"colours": [[0, 0, 300]] * 3}, "error", "info", "colours have to be"),
        (
            {"classes": ["a"] * 4, "colours": [[0, 0, 0]] * 4},
            "error",
            "info",
            "expected 3",
        ),
        ({"classes": ["a"] * 4, "colours": None}, "warning", "info", "has 4 classes, expected 3"),
    ],
)
def test_invalid_info(
    folder: Path, changes: dict[str, object], severity: str, kind: str, words: str
) -> None:
    change_info(folder, **changes)
    finding = only(check_folder(folder, classes=3))
    assert (finding.severity, finding.kind) == (severity, kind)
    assert words in finding.message
    assert finding.file == folder / "info.json"


def test_small_difference_in_mean_is_tolerated(folder: Path) -> None:
    mean = json.loads((folder / "info.json").read_text())["mean"]
    change_info(folder, mean=[value + 0.009 for value in mean])
    assert check_folder(folder).findings == []


def test_mean_is_not_compared_if_images_are_unreadable(folder: Path) -> None:
    change_info(folder, mean=[0.1, 0.1, 0.1])
    (folder / "images" / "0.png").write_bytes(b"")
    report = check_folder(folder)
    assert only(report).kind == "unreadable"
    assert report.statistics is not None


@pytest.mark.parametrize(
    ("content", "words"), [(None, "no such file"), ("{", "not valid JSON"), ("[]", "a JSON object")]
)
def test_missing_or_broken_info_is_reported_once(
    folder: Path, content: str | None, words: str
) -> None:
    (folder / "info.json").unlink()
    if content is not None:
        (folder / "info.json").write_text(content)
    report = check_folder(folder)
    finding = only(report)
    assert (finding.severity, finding.kind) == ("error", "info")
    assert words in finding.message
    assert (report.recorded, report.class_count) == (None, None)
