"""What there is of ImageNet below a folder: archives, unpacked images, ground truths, boxes."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from drn_cli.data.file_search import CYCLE, REPEATED, UNREADABLE, LeftOut, entries
from drn_cli.data.prepare.imagenet.images import is_image, is_wnid
from drn_cli.errors import DrnError
from drn_cli.files import require_folder

DEPTH = 4  # folders below the source; Kaggle has the images in ILSVRC/Data/CLS-LOC/train

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
BOX_ARCHIVE = "ILSVRC2012_bbox_val_v3.tgz"
SOLUTION = "LOC_val_solution.csv"
SYNSETS = "LOC_synset_mapping.txt"
META = "meta.mat"
# Files with one class a line, as the devkit and others name them.
TRUTHS = ("*ground_truth*.txt", "*synset_labels.txt")
VAL_IMAGES = "ILSVRC2012_val_"  # how the names of all validation images begin
# Files that may lie beside flat images and are used, or belong there.
OF_IMAGENET = re.compile(
    r"(.*/)?(ILSVRC2012_.*|LOC_.*|meta\.mat|.*(ground_truth|synset_labels).*\.txt)"
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where each thing is; None for what is not there.

    Attributes:
        train: The archive, or the folder of class folders.
        val: The archive, the folder of class folders, or the flat folder.
        flat: Whether `val` does not say the classes of its images itself.
        solution: Classes and boxes of the validation images, as CSV.
        truth: Classes of the validation images, one a line.
        devkit: Archive with a ground truth and meta.mat.
        meta: Names and numbers of the classes, unpacked from the devkit.
        boxes: Boxes of the validation images: the archive, or the folder of XML files.
        synsets: Names of the classes, one a line.
    """

    train: Path | None
    val: Path | None
    flat: bool
    solution: Path | None
    truth: Path | None
    devkit: Path | None
    meta: Path | None
    boxes: Path | None
    synsets: Path | None


def find_sources(root: Path, out: Path, truth: Path | None = None) -> Sources:
    """Look for all that belongs to ImageNet in a folder and a few levels below it.

    An archive is taken before folders that were unpacked from it, and of two things of a kind the
    one that lies higher.

    Args:
        root: The folder to look in.
        out: The data folder; what is in there is no source.
        truth: A ground truth to take instead of one that is found.

    Raises:
        DrnError: The folder or `truth` is missing, or a validation folder is half sorted.
    """
    require_folder(root, "ImageNet archives or images")
    if truth is not None and not truth.is_file():
        raise DrnError(f"{truth}: no such file")
    files: dict[str, Path] = {}
    folders: dict[str, Path] = {}
    left_out = LeftOut()
    for folder, names, below in _walk(root, out.resolve(), left_out):
        for name in names:
            files.setdefault(_kind_of_file(name), folder / name)
        for kind in _kinds_of_folder(folder, names, below):
            folders.setdefault(kind, folder)
    left_out.log(root)
    val = files.get(VAL_ARCHIVE) or folders.get("val") or folders.get("flat")
    if truth is not None and truth.suffix.lower() == ".csv":
        files[SOLUTION] = truth
    elif truth is not None:
        files.pop(SOLUTION, None)
        files["truth"] = truth
    return Sources(
        train=files.get(TRAIN_ARCHIVE) or folders.get("train"),
        val=val,
        flat=val is not None and val != folders.get("val"),
        solution=files.get(SOLUTION),
        truth=files.get("truth"),
        devkit=files.get(DEVKIT),
        meta=files.get(META),
        boxes=files.get(BOX_ARCHIVE) or folders.get("boxes"),
        synsets=files.get(SYNSETS),
    )


def _walk(root: Path, out: Path, left_out: LeftOut) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield folders with the names of their files and folders, level by level.

    Linked folders are entered, each folder once. Hidden folders, class folders and the data folder
    are not entered; what may not be read, and links that lead in a circle, are left out.
    """
    level, searched = [root], {root.resolve(), out}
    for depth in range(DEPTH + 1):
        following = []
        for folder in level:
            try:
                found = [(entry.name, entry.is_dir()) for entry in entries(folder)]
            except (DrnError, OSError):
                if not depth:
                    raise
                left_out.add(UNREADABLE, str(folder.relative_to(root)))
                continue
            below = [name for name, is_folder in found if is_folder]
            yield folder, [name for name, is_folder in found if not is_folder], below
            for name in below:
                if name.startswith(".") or is_wnid(name):
                    continue
                real = (folder / name).resolve()
                if real not in searched:
                    searched.add(real)
                    following.append(folder / name)
                elif folder.resolve().is_relative_to(real):
                    left_out.add(CYCLE, str((folder / name).relative_to(root)))
                elif real != out and (folder / name).is_symlink():
                    left_out.add(REPEATED, str((folder / name).relative_to(root)))
        level = following


def _kind_of_file(name: str) -> str:
    return "truth" if any(fnmatch(name, pattern) for pattern in TRUTHS) else name


def _kinds_of_folder(folder: Path, names: list[str], below: list[str]) -> Iterator[str]:
    """Tell what a folder is by its name and what lies in it."""
    # A link is called what it stands for, `.` what the folder is called.
    name = folder.name if folder.name in ("train", "val") else folder.resolve().name
    classes = [each for each in below if is_wnid(each)]
    sorted_ = any(_has_images(folder / each) for each in classes)
    if name in ("train", "val") and sorted_:
        yield name
    if any(is_image(each) and (name == "val" or each.startswith(VAL_IMAGES)) for each in names):
        if name == "val" and sorted_:
            raise DrnError(
                f"{folder}: some images are in class folders and some are not",
                "finish sorting them, or start from all in one place",
            )
        yield "flat"
    if any(each.startswith(VAL_IMAGES) and each.endswith(".xml") for each in names):
        yield "boxes"


def _has_images(folder: Path) -> bool:
    """Tell images from the annotations of the training set, which lie in such folders too."""
    with suppress(OSError), os.scandir(folder) as found:
        return any(is_image(entry.name) for entry in found)
    return False
