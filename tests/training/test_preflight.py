"""Errors and warnings about the data before the first step."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.folders import list_digest
from drn_cli.distributed.launch import EXIT_CODE_FILE


def dry_run(recipe: Path, *words: str) -> tuple[list[str], list[str]]:
    """Return the problems and the warnings of `--dry-run`."""
    done = CliRunner().invoke(app, ["train", str(recipe), "--dry-run", "--json", *words])
    values = json.loads(done.stdout)
    return values["missing"], values["warnings"]


def counts(*pixels: int, stale: bool = False) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        info = json.loads((root / "info.json").read_text())
        labels = (root / "train_labels.txt").read_text().splitlines()
        listed = list_digest([*labels[1:], "labels/other.png"] if stale else labels)
        info["class_pixels"] = {"train": {"list": listed, "pixels": pixels, "void": 0}}
        (root / "info.json").write_text(json.dumps(info))

    return write


def cut(name: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[:-20])

    return write


def padded(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.write_bytes(path.read_bytes() + bytes(40))


def without_blue(root: Path) -> None:
    for path in (root / "labels").iterdir():
        label = np.array(Image.open(path))
        label[label == 2] = 0
        Image.fromarray(label).save(path)


def floats(added: float) -> Callable[[Path], None]:
    """Make the labels TIFF files of floats."""

    def write(root: Path) -> None:
        for path in (root / "labels").iterdir():
            label = np.array(Image.open(path)).astype(np.float32) + added
            Image.fromarray(label).save(path.with_suffix(".tif"))
            path.unlink()
        for path in root.glob("*_labels.txt"):
            path.write_text(path.read_text().replace(".png", ".tif"))

    return write


def many(root: Path) -> None:
    for kind in ("images", "labels"):
        path = root / f"train_{kind}.txt"
        path.write_text(path.read_text() * 3)


def test_a_worker_skips_the_checks_of_its_launcher(
    own_data_folder: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut("images/0.png")(own_data_folder)
    words = [str(recipe_file), f"data.root={own_data_folder}", f"model.weights={tmp_path}/none.pth"]
    monkeypatch.delenv(EXIT_CODE_FILE, raising=False)
    alone = CliRunner().invoke(app, ["train", *words])
    assert "0.png: broken image: the file ends" in str(alone.exception)
    monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "code"))
    worker = CliRunner().invoke(app, ["train", *words])
    assert "none.pth: no such file" in str(worker.exception)


BLUE = "train_labels.txt: no training pixel of blue (2): it cannot be learned"


@pytest.mark.parametrize(
    ("spoil", "words", "missing", "warning"),
    [
        (lambda _: None, (), None, None),
        (cut("images/3.png"), (), "images/3.png: broken", None),
        (cut("labels/102.png"), (), "labels/102.png: broken", None),
        (padded, (), None, None),
        (without_blue, (), None, BLUE),
        (floats(0), (), None, None),
        (floats(0.5), (), ".tif: value 255.5 at x=0", None),
        (counts(5, 5, 0), (), None, BLUE),
        (counts(0, 5, 0), (), "the training labels contain only green; at least 2 classes", None),
        (counts(5, 5, 0, stale=True), (), None, None),  # counts of another list are not used
        (counts(5, 0), (), None, None),  # of another number of classes
        (counts(5, -5, 0), (), None, None),
        (lambda root: many(root) or counts(5, 5, 0)(root), (), None, BLUE),
        (many, (), None, "info.json: no pixel counts per class"),
        (lambda root: (root / "info.json").write_text('{"mean": [0.5, 0.5, 0.5], '
         '"std": [0.5, 0.5, 0.5]}'), ("data.classes=1",), "data.classes: 1; at least 2", None),
    ],
)  # fmt: skip
def test_segmentation(
    own_data_folder: Path,
    recipe_file: Path,
    spoil: Callable[[Path], None],
    words: tuple[str, ...],
    missing: str | None,
    warning: str | None,
) -> None:
    spoil(own_data_folder)
    found, warned = dry_run(recipe_file, f"data.root={own_data_folder}", *words)
    assert len(found) == (missing is not None), found
    assert len(warned) == (warning is not None), warned
    assert (missing or "") in "".join(found)
    assert "color" not in "".join(found)  # where the labels hold values
    assert (warning or "") in "".join(warned)


@pytest.mark.parametrize(
    ("classes", "spoil", "missing", "warning"),
    [
        ("ab", None, None, None),
        ("ab", "train/b/3.png", "train/b/3.png: broken", None),
        ("abc", None, None, "train: no images of c (add some, or remove the class)"),
        ("a", None, "data.classes: 1; at least 2 classes", None),
    ],
)
def test_classification(
    tmp_path: Path, classes: str, spoil: str | None, missing: str | None, warning: str | None
) -> None:
    for split in ("train", "val"):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(6 if name in "ab" else 0):
                pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    (tmp_path / "train" / "a" / "notes.txt").touch()  # no warning
    if spoil:
        cut(spoil)(tmp_path)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "task: classification\nmodel: {arch: drn_a_18}\naugment: {crop: 32}\n"
        f"data: {{root: {tmp_path}, classes: {len(classes)}}}\n"
        "train: {epochs: 1, batch_size: 2, lr: 0.01}\n"
    )
    found, warned = dry_run(recipe)
    assert len(found) == (missing is not None), found
    assert (missing or "") in "".join(found)
    assert warned == [] if warning is None else warning in "".join(warned)
