"""Find the files of ImageNet in a folder: archives, unpacked images, ground truth, boxes."""

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

DEPTH = 4  # levels of folders that are searched; Kaggle uses ILSVRC/Data/CLS-LOC/train

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
BOX_ARCHIVE = "ILSVRC2012_bbox_val_v3.tgz"
SOLUTION = "LOC_val_solution.csv"
SYNSETS = "LOC_synset_mapping.txt"
META = "meta.mat"
# Ground truth files with one class per line, of the devkit and of other projects.
TRUTHS = ("*ground_truth*.txt", "*synset_labels.txt")
VAL_IMAGES = "ILSVRC2012_val_"  # prefix of the names of all validation images
# Files of ImageNet beside flat images: not reported as left out.
OF_IMAGENET = re.compile(
    r"(.*/)?(ILSVRC2012_.*|LOC_.*|meta\.mat|.*(ground_truth|synset_labels).*\.txt)"
)


@dataclass(frozen=True, slots=True)
class ImageNetSources:
    """Files and folders of ImageNet; None for what was not found."""

    train: Path | None  # the archive, or the folder of class folders
    val: Path | None  # the archive, the folder of class folders, or a flat folder of images
    flat: bool  # whether `val` is flat, so that its classes need a ground truth
    solution: Path | None  # classes and boxes of the validation images, as CSV
    truth: Path | None  # classes of the validation images, one per line
    devkit: Path | None  # archive with a ground truth and meta.mat
    meta: Path | None  # names and numbers of the classes, unpacked from the devkit
    boxes: Path | None  # boxes of the validation images: an archive or a folder of XML files
    synsets: Path | None  # names of the classes, one per line


def find_sources(root: Path, out: Path, truth: Path | None = None) -> ImageNetSources:
    """Search a folder and a few levels of subfolders for the files of ImageNet.

    An archive is preferred to unpacked folders, and of two equal files the one at a higher level.

    Args:
        root: The folder to search.
        out: The data folder, which is not searched.
        truth: A ground truth file to use instead of one that is found.

    Raises:
        DrnError: The folder or `truth` is missing, or a validation folder is sorted only partly.
    """
    require_folder(root, "ImageNet archives or images")
    if truth is not None and not truth.is_file():
        raise DrnError(f"{truth}: no such file")
    files: dict[str, Path] = {}
    folders: dict[str, Path] = {}
    left_out = LeftOut()
    for folder, names, below in _walk(root, out.resolve(), left_out):
        for name in names:
            kind = "truth" if any(fnmatch(name, pattern) for pattern in TRUTHS) else name
            files.setdefault(kind, folder / name)
        for kind in _kinds_of_folder(folder, names, below):
            folders.setdefault(kind, folder)
    left_out.log(root)
    val = files.get(VAL_ARCHIVE) or folders.get("val") or folders.get("flat")
    if truth is not None and truth.suffix.lower() == ".csv":
        files[SOLUTION] = truth
    elif truth is not None:
        files.pop(SOLUTION, None)
        files["truth"] = truth
    return ImageNetSources(
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
    """Yield folders with the names of their files and subfolders, level by level.

    Links are followed, but each folder is entered once. Hidden folders, class folders and `out`
    are skipped; unreadable folders and links to a folder above are added to `left_out`.
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


def _kinds_of_folder(folder: Path, names: list[str], below: list[str]) -> Iterator[str]:
    """Yield what a folder contains: `train`, `val`, `flat` images, or `boxes`."""
    # A link named train or val counts under this name; `.` has the name of the real folder.
    name = folder.name if folder.name in ("train", "val") else folder.resolve().name
    by_class = any(_has_images(folder / wnid) for wnid in below if is_wnid(wnid))
    if name in ("train", "val") and by_class:
        yield name
    if any(is_image(file) and (name == "val" or file.startswith(VAL_IMAGES)) for file in names):
        if name == "val" and by_class:
            raise DrnError(
                f"{folder}: some images are in class folders and some are not",
                "move all of them into class folders, or none",
            )
        yield "flat"
    if any(file.startswith(VAL_IMAGES) and file.endswith(".xml") for file in names):
        yield "boxes"


def _has_images(folder: Path) -> bool:
    """Return whether a class folder contains images, and not the annotations of images."""
    with suppress(OSError), os.scandir(folder) as found:
        return any(is_image(entry.name) for entry in found)
    return False
