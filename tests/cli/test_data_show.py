"""`drn data show`: mostly in this process, which is quicker; once as a process."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from drn_cli.cli.data import app
from drn_cli.errors import DrnError


def show(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["show", *map(str, words)])


def show_json(*words: str | Path) -> Any:
    result = show(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def mistake(*words: str | Path) -> DrnError:
    result = show(*words)
    assert isinstance(result.exception, DrnError), result.output
    return result.exception


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    for name in ("train/wren/1.png", "train/robin/2.png", "val/wren/3.png"):
        path = tmp_path / "birds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(path)
    return tmp_path / "birds"


def test_process_draws_a_sheet_and_says_so(drn, data_folder: Path, tmp_path: Path) -> None:
    done = drn("data", "show", data_folder, "--count", "2", "--out", "made/sheet.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "made/sheet.png: 2 of 12 train pictures\n"
    assert "crop 32, scale 1.5, rotate 5, flip on" in done.stderr
    assert "--recipe" in done.stderr
    with Image.open(tmp_path / "made" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 1000
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["sheet.png"]


def test_json_says_what_is_shown(here: Path, data_folder: Path) -> None:
    said = show_json(data_folder, "--count", "3", "--seed", "4", "--epoch", "2")
    assert {key: said[key] for key in ("out", "split", "pictures", "seed")} == {
        "out": "contact-sheet.png",
        "split": "train",
        "pictures": 12,
        "seed": 4,
    }
    assert said["classes"] == ["red", "green", "blue"]
    assert said["augmentation"] == {"crop": 32, "scale": 1.5, "rotate": 5, "flip": True}
    assert len(said["samples"]) == 3
    assert [crop["epoch"] for crop in said["samples"][0]["crops"]] == [2, 3, 4]
    assert (here / "contact-sheet.png").is_file()


def test_crops_are_those_of_the_recipe(here: Path, data_folder: Path, recipe_file: Path) -> None:
    said = show_json(data_folder, "--recipe", recipe_file, "augment.crop=24", "--count", "1")
    assert said["augmentation"] == {"crop": 24, "scale": 1.2, "rotate": 5, "flip": True}
    told = show(data_folder, "--recipe", recipe_file, "--count", "1")
    assert "crop 32, scale 1.2, rotate 5, flip on" in told.stderr
    assert "--recipe" not in told.stderr


def test_recipe_need_not_say_where_the_data_is(
    here: Path, data_folder: Path, recipe_file: Path
) -> None:
    recipe = yaml.safe_load(recipe_file.read_text())
    del recipe["data"]["root"]
    recipe["augment"]["crop"] = 16
    (here / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert show_json(data_folder, "--recipe", "mine.yaml")["augmentation"]["crop"] == 16


def test_second_sheet_takes_the_place_of_the_first(here: Path, data_folder: Path) -> None:
    first = show_json(data_folder, "--count", "1")
    before = (here / first["out"]).read_bytes()
    show_json(data_folder, "--count", "2")
    assert (here / first["out"]).read_bytes() != before


def test_lists_may_lie_elsewhere(here: Path, own_data_folder: Path, recipe_file: Path) -> None:
    lists = here / "lists"
    lists.mkdir()
    for path in (*own_data_folder.glob("*.txt"), own_data_folder / "info.json"):
        shutil.move(path, lists)
    assert show_json(own_data_folder, "--lists", lists)["pictures"] == 12
    given = show_json(own_data_folder, "--recipe", recipe_file, f"data.lists={lists}")
    assert given["pictures"] == 12


def test_split_without_labels(here: Path, own_data_folder: Path) -> None:
    shutil.copy(own_data_folder / "val_images.txt", own_data_folder / "test_images.txt")
    said = show_json(own_data_folder, "--split", "test")
    assert (said["pictures"], said["classes"], said["augmentation"]) == (5, [], None)
    assert all(sample["label"] is None for sample in said["samples"])
    assert show(own_data_folder, "--split", "test").stderr == ""


def test_class_folders_are_told_by_looking(here: Path, birds: Path) -> None:
    said = show_json(birds)
    assert said["classes"] == ["robin", "wren"]
    assert said["augmentation"] == {"crop": 224, "flip": True}
    assert [sample["class"] for sample in said["samples"]] == ["robin", "wren"]
    assert show_json(birds, "--split", "val")["augmentation"] is None
    words = ("--recipe", "drn_d_22_imagenet", "data.classes=2", "augment.crop=64")
    assert show_json(birds, *words, "augment.flip=false")["augmentation"] == {
        "crop": 64,
        "flip": False,
    }


def test_mistakes_are_told_before_anything_is_written(
    here: Path, data_folder: Path, birds: Path
) -> None:
    classifier, segmenter = ("--recipe", "drn_d_22_imagenet"), ("--recipe", "drn_d_22_camvid")
    said = {
        "no such data folder": mistake("nowhere"),
        "class folders have train and val": mistake(birds, "--split", "test"),
        "has 2 classes, the recipe 1000": mistake(birds, *classifier),
        "the recipe trains a segmenter": mistake(birds, *segmenter),
        "the recipe trains a classifier": mistake(data_folder, *classifier),
        "names 3 classes": mistake(data_folder, *segmenter),
        "there is no recipe to change": mistake(data_folder, "augment.crop=32"),
        "test_images.txt: no such list": mistake(data_folder, "--split", "test"),
    }
    for expected, error in said.items():
        assert expected in error.message
    assert not (here / "contact-sheet.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "all"), "one of train, val, test"),
        (("--out", "sheet.jpg"), "a contact sheet is a .png file"),
        (("--count", "0"), "--count"),
        (("--seed", "-1"), "--seed"),
        (("--epoch", "-1"), "--epoch"),
    ],
)
def test_usage(data_folder: Path, words: tuple[str, ...], message: str) -> None:
    result = show(data_folder, *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_files_of_the_data_folder_are_left_alone(here: Path, own_data_folder: Path) -> None:
    picture = own_data_folder / "pictures" / "3.png"
    before = picture.read_bytes()
    (here / "link.png").symlink_to(picture)
    for out in (picture, here / "link.png"):
        error = mistake(own_data_folder, "--out", out)
        assert "exists in the data folder" in error.message
    assert picture.read_bytes() == before
    sheet = own_data_folder / "contact-sheet.png"
    for _ in range(2):
        assert show(own_data_folder, "--count", "1", "--out", sheet).exit_code == 0
    assert sheet.is_file()


def test_help_has_examples_and_imports_nothing_heavy(drn) -> None:
    script = (
        "import sys; sys.argv = ['drn', 'data', 'show', '--help']\n"
        "from drn_cli.cli.app import app\n"
        "try: app()\n"
        "finally: assert not {'torch', 'numpy', 'PIL', 'cv2'} & set(sys.modules)\n"
    )
    done = type(drn)(drn.cwd, (sys.executable, "-c", script))()
    assert done.returncode == 0, done.stderr
    assert "drn data show data/camvid" in done.stdout
