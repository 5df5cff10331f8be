"""`drn data prepare pairs` keeps the split of the source."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from drn_cli.cli.app import app
from drn_cli.errors import DrnError

IMAGE, MASK = "i", "m"


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write images and masks of 4x4 pixels, and text files."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if content == IMAGE:
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / name)
        elif content == MASK:
            Image.fromarray(np.eye(4, dtype=np.uint8)).save(root / name)
        else:
            (root / name).write_text(content)
    return root


def prepare(root: Path, *words: str) -> Result:
    out = str(root.parent / "out")
    return CliRunner().invoke(app, ["data", "prepare", "pairs", "--out", out, *words])


def lists(root: Path) -> dict[str, list[str]]:
    return {
        path.name.removesuffix("_images.txt"): [
            Path(line).stem for line in path.read_text().split()
        ]
        for path in sorted((root.parent / "out").glob("*_images.txt"))
    }


def pair(image: str, mask: str) -> dict[str, str]:
    return {image: IMAGE, mask: MASK}


NAMES = {"train": "abcde", "val": "fgh", "test": "ij"}
VOC = {
    **{f"VOC/JPEGImages/{n}.jpg": IMAGE for part in NAMES.values() for n in part},
    **{f"VOC/SegmentationClass/{n}.png": MASK for part in NAMES.values() for n in part},
    **{
        f"VOC/ImageSets/Segmentation/{split}.txt": "\n".join(names)
        for split, names in NAMES.items()
    },
    "VOC/ImageSets/Segmentation/trainval.txt": "\n".join("abcdefgh"),
}
FOLDERS = ("--images", "images", "--labels", "masks")
ONE = ("--images", "ds", "--labels", "ds")


def in_folders(image: str, mask: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return an image and a mask for each letter; SPLIT is replaced by the names in `names`."""
    found = {}
    for letters, name in zip(NAMES.values(), names.values(), strict=True):
        for n in letters:
            found |= pair(*(text.replace("SPLIT", name) + f"{n}.png" for text in (image, mask)))
    return found


USUAL = {"train": "train", "val": "val", "test": "test"}
OTHER = {"train": "Training", "val": "valid", "test": "TESTING"}


@pytest.mark.parametrize(
    ("files", "words", "kind"),
    [
        (VOC, ("--images", "VOC/JPEGImages", "--labels", "VOC/SegmentationClass"), "voc"),
        (VOC, ("--images", "VOC", "--labels", "VOC"), "voc"),
        (VOC, ("--images", ".", "--labels", "."), "voc"),
        (in_folders("images/SPLIT/", "masks/SPLIT/", USUAL), FOLDERS, "folders"),
        (in_folders("images/SPLIT/x/", "masks/SPLIT/x/", OTHER), FOLDERS, "folders"),
        (in_folders("images/", "masks/SPLIT/", USUAL), FOLDERS, "folders"),
        (in_folders("ds/SPLIT/images/", "ds/SPLIT/labels/", OTHER), ONE, "folders"),
        (
            {
                **in_folders("d/images/", "d/masks/", USUAL),
                "d/train.txt": "images/a.png\nimages/b.png\n\nimages/c.png\nd\n./e.png\n",
                "d/validation.txt": "f.png masks/f.png\nC:\\\\data\\\\g.png\nh.png,h\nabsent.png\n",
                "d/test.txt": "/home/me/images/i.png\nj",
            },
            ("--images", "d/images", "--labels", "d/masks"),
            "lists",
        ),
    ],
)
def test_keeps_the_split_of_the_source(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Mapping[str, str],
    words: tuple[str, ...],
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "drn_cli")
    root = write(tmp_path / "source", files)
    monkeypatch.chdir(root)
    done = prepare(root, *words)
    assert done.exit_code == 0, done.exception
    assert lists(root) == {split: list(names) for split, names in NAMES.items()}
    assert "using the split of the source" in caplog.text
    assert "5 train, 3 val, 2 test" in caplog.text
    info = json.loads((tmp_path / "out" / "info.json").read_text())
    assert info["split"]["kind"] == kind
    counted = info["class_pixels"]["val"]
    assert (counted["labels"], counted["pixels"], counted["void"]) == (3, [36, 12], 0)
    again = prepare(root, *words, "--json")
    said = json.loads(again.stdout)
    assert (said["unchanged"], said["split"]) == (True, info["split"])


def test_split_options_need_split_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "source", in_folders("images/SPLIT/", "masks/SPLIT/", USUAL))
    monkeypatch.chdir(root)
    for words in (("--val", "0.2"), ("--seed", "1"), ("--group", "(.*)"), ("--test", "0.1")):
        refused = prepare(root, *FOLDERS, *words)
        assert isinstance(refused.exception, DrnError)
        assert "the source already has a split" in refused.exception.message
        assert "--split random" in str(refused.exception.hint)
    assert not (tmp_path / "out").exists()
    done = prepare(root, *FOLDERS, "--split", "random", "--val", "0.2")
    assert done.exit_code == 0, done.exception
    assert set(lists(root)) == {"train", "val"}
    info = json.loads((tmp_path / "out" / "info.json").read_text())
    assert info["split"] == {"kind": "random", "val": 0.2, "test": 0.0, "seed": 0, "group": None}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({**pair("images/train/a.png", "masks/a.png"), **pair("images/val/b.png", "masks/b.png"),
          **pair("images/c.png", "masks/c.png")}, r"c.png: is in no split folder"),
        ({**pair("images/train/a.png", "masks/a.png"),
          **pair("images/val/test/b.png", "masks/b.png")}, r"two split names, val and test"),
        ({**pair("images/train/a.png", "masks/train/a.png"),
          **pair("images/val/b.png", "masks/test/b.png")}, r"is in val, but its label .* another"),
        ({**pair("images/a.png", "masks/a.png"), **pair("images/b.png", "masks/b.png"),
          "train.txt": "a\nb", "val.txt": "b"}, r"val.txt:1: b.png is also in train"),
        ({**pair("images/a.png", "masks/a.png"), **pair("images/test/b.png", "masks/b.png")},
         r"a.png: is in no split folder, but other images are in test"),
        ({**pair("images/a.png", "masks/a.png"), **pair("images/b.png", "masks/b.png"),
          "train.txt": "a"}, r"names 1 of 2 images, and no list names"),
        ({**pair("images/val/a.png", "masks/a.png"), **pair("images/val/b.png", "masks/b.png")},
         r"contains no training images .* 0 train, 2 val, 0 test\)"),
        ({**pair("images/a.png", "masks/a.png"), **pair("images/b.png", "masks/b.png"),
          "val.txt": "a\nb"}, r"contains no training images"),
    ],
)  # fmt: skip
def test_inconsistent_split_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], message: str
) -> None:
    root = write(tmp_path / "source", files)
    monkeypatch.chdir(root)
    with pytest.raises(DrnError, match=message) as caught:
        prepare_raising(root)
    assert "--split random" in str(caught.value.hint)


def prepare_raising(root: Path) -> None:
    done = prepare(root, *FOLDERS)
    assert done.exception is not None
    raise done.exception


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # As in Oxford-IIIT Pet.
        ({"trainval.txt": "\n".join("abcdefgh"), "test.txt": "i\nj"},
         {"train": list("abcdefgh"), "test": ["i", "j"]}),
        ({"val.txt": "a\nb"}, {"train": list("cdefghij"), "val": ["a", "b"]}),
        ({"trainval.txt": "\n".join("abcde"), "val.txt": "d\ne"},
         {"train": list("abc"), "val": ["d", "e"]}),
        ({"trainval.txt": "\n".join("abcde"), "train.txt": "a\nb\nc", "test.txt": "f"},
         {"train": list("abc"), "val": ["d", "e"], "test": ["f"]}),
        ({"trainval.txt": "\n".join("abcde"), "train.txt": "a\nb", "val.txt": "c"},
         {"train": ["a", "b"], "val": ["c"]}),
        # Numbering that restarts: f of another folder is another image.
        ({**pair("val/f.png", "val/f_mask.png"), "train.txt": "a\nb\nc",
          "val.txt": "images/d.png\nval/f.png\nval/f"},
         {"train": list("abc"), "val": ["d"]}),
    ],
)  # fmt: skip
def test_partial_lists(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Mapping[str, str],
    expected: Mapping[str, list[str]],
) -> None:
    root = write(tmp_path / "source", {**in_folders("images/", "masks/", USUAL), **files})
    monkeypatch.chdir(root)
    done = prepare(root, *FOLDERS)
    assert done.exit_code == 0, done.exception
    assert lists(root) == expected


def test_lists_of_label_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"train.txt": "a_mask.png\nb_mask.png", "val.txt": "c_mask.png"}
    for name in "abc":
        files |= pair(f"images/x/{name}.png", f"masks/x/{name}_mask.png")
    monkeypatch.chdir(root := write(tmp_path / "source", files))
    assert prepare(root, *FOLDERS).exit_code == 0
    assert lists(root) == {"train": ["a", "b"], "val": ["c"]}


def test_pairs_in_no_list_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "drn_cli")
    files = {
        **in_folders("images/", "masks/", USUAL),
        "train.txt": "a\nb\nx",
        "trainval.txt": "c\nx",
    }
    root = write(tmp_path / "source", files)
    monkeypatch.chdir(root)
    prepare(root, *FOLDERS)
    assert lists(root) == {"train": ["a", "b"], "val": ["c"]}
    assert "pairs in no list, left out: 7; list entries without a pair: 1" in caplog.text
