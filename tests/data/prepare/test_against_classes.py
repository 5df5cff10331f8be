"""`drn data prepare pairs` checks labels against the classes before it writes anything."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from drn_cli.cli.app import app
from drn_cli.data.images import read_label
from drn_cli.errors import DrnError

ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Path:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "drn_cli")
    for folder in ("i", "m"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "i" / f"{number}.png")
    return tmp_path


def masks(values: Sequence[float], kind: str = "png") -> None:
    """Write labels of 6x4 pixels with repeating values."""
    for number in range(4):
        pixels = np.resize(np.array(values), (4, 6))
        floats = any(isinstance(value, float) for value in values)
        image = Image.fromarray(pixels.astype(np.float32 if floats else np.uint8))
        image.save(Path("m") / f"{number}.{kind}")


def prepare(*words: str) -> Result:
    command = ["data", "prepare", "pairs", "--images", "i", "--labels", "m", "--out", "out"]
    return CliRunner().invoke(app, [*command, *words])


@pytest.mark.parametrize(
    ("values", "classes", "message", "remedy"),
    [
        (
            [0, 128],
            None,
            "contain the values 0, 128; .* 129 classes, 127 of them",
            "--write-classes",
        ),
        ([1, 2], None, r"contain the values 1, 2; .* 1 of them without pixels \(0\)", "--ignore"),
        ([0, 255], None, "fewer than two classes: values 0; ignored: 255", "--classes FILE"),
        ([0, 1, 7], "name,id\na,0\nb,1", r"m/0.png: value 7 \(32 px\) is not a class", "a row"),
        (
            [0, 1, 7, 9],
            "a\nb",
            r"2 values that are not classes: 7 \(24 px\), 9 \(24 px\); .* m/0",
            "rows",
        ),
        ([0, 1], "a\nvoid", "contains 1 class besides void", "background"),
        ([0, 0], "a\nb\nc", "the labels contain only the class a; training needs", "background"),
    ],
)
def test_unsuitable_labels_raise_before_writing(
    source: Path, values: list[int], classes: str | None, message: str, remedy: str
) -> None:
    masks(values)
    words: tuple[str, ...] = ()
    if classes:
        (source / "c.csv").write_text(classes)
        words = ("--classes", "c.csv")
    before = sorted(source.rglob("*"))
    done = prepare(*words)
    assert isinstance(done.exception, DrnError)
    with pytest.raises(DrnError, match=message):
        raise done.exception
    assert remedy in str(done.exception.hint)
    assert sorted(source.rglob("*")) == before


def test_unknown_color_in_jpeg_mentions_compression() -> None:
    for number, color in enumerate(("black", "white", "black", "orange")):
        Image.new("RGB", (6, 4), color).save(f"m/{number}.jpg", quality=100)
    Path("c.csv").write_text("name,r,g,b\na,0,0,0\nb,255,255,255\n")
    refused = prepare("--classes", "c.csv").exception
    assert isinstance(refused, DrnError)
    assert refused.message.startswith("m/3.jpg: color ")
    assert "JPEG compression changes colors" in refused.message


def test_class_file_template_of_binary_mask_has_two_classes() -> None:
    masks([0, 255])
    begun = prepare("--write-classes", "c.csv")
    assert begun.stdout == "c.csv written: 2 classes\n"
    assert Path("c.csv").read_text() == "name,id\nclass 0,0\nclass 255,255\n"
    assert prepare("--classes", "c.csv").exit_code == 0
    assert np.unique(read_label(Path("out/labels/0.png"))).tolist() == [0, 1]


def test_warns_of_classes_that_never_occur(caplog: pytest.LogCaptureFixture) -> None:
    masks([0, 2, 255])
    Path("c.txt").write_text("road\ntram\ntree\nboat\n")
    done = prepare("--classes", "c.txt")
    assert done.exit_code == 0, done.exception
    assert "2 of 4 classes never occur in the labels: tram, boat" in caplog.text
    info = json.loads(Path("out/info.json").read_text())
    counts = info["class_pixels"]["train"]
    assert counts.pop("list")
    assert counts == {"labels": 3, "pixels": [24, 0, 24, 0], "void": 24}


def test_float_labels_need_integer_values() -> None:
    masks([0.0, 1.0, 2.0], "tiff")
    assert prepare().exit_code == 0
    assert np.unique(read_label(Path("out/labels/0.png"))).tolist() == [0, 1, 2]
    masks([0.0, 0.5, 2.0], "tiff")
    assert isinstance(refused := prepare("--out", "other").exception, DrnError)
    assert "value 0.5 at x=1, y=0 is not a class id" in refused.message


@pytest.mark.parametrize(
    ("orientation", "refused", "said"),
    [
        (
            6,
            True,
            "which rotates it by 90 degrees (rotate the label as well, or remove the tag from the "
            "image)",
        ),
        (3, False, "i/0.png: EXIF orientation 3 rotates it by 180 degrees, but its label has none"),
        (1, False, ""),
    ],
)
def test_image_with_exif_orientation(
    orientation: int, refused: bool, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    masks([0, 1])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save("i/0.png", exif=exif)
    done = prepare()
    if refused:
        assert isinstance(done.exception, DrnError)
        assert said in str(done.exception)
        assert not Path("out").exists()
    else:
        assert done.exit_code == 0, done.exception
        assert said in caplog.text
        assert ("EXIF" in caplog.text) == bool(said)
        shown = CliRunner().invoke(app, ["data", "check", "out"])
        assert said.partition(": ")[2] in shown.stdout
