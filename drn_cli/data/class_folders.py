"""Class folders: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, the layout of ImageNet.

The order of the classes is the sorted order of the folders' names, as everywhere in the field.
`info.json`, where there is one, names the folders in this order and what people call the classes:
`{"folders": ["n01440764", ...], "classes": ["tench", ...], "mean": [...], "std": [...]}`; each
part may be left out. What is hidden, its name starting with a dot, is nobody's class or picture.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from drn_cli.data.folders import IMAGENET, ListFolder, Statistics
from drn_cli.data.images import SUFFIXES
from drn_cli.errors import DrnError
from drn_cli.files import read_json

Split = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class ClassSample:
    """One picture and the number of its class."""

    image: Path
    target: int


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """A folder of class folders.

    Attributes:
        root: Where `train/` and `val/` are.
        folders: Name of each class's folder, in the order of the classes.
        names: What people call each class.
    """

    root: Path
    folders: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def open(cls, root: str | Path) -> "ClassFolder":
        """Find the classes.

        Raises:
            DrnError: The folder is missing or cannot be read, has no classes, or info.json
                contradicts them.
        """
        root = Path(root)
        if not root.is_dir():
            raise DrnError(
                f"{root}: no such data folder",
                "prepare one with `drn data prepare`, or name yours with data.root=DIR",
            )
        found = _class_names(root / "train") or _class_names(root / "val")
        if not found:
            raise DrnError(f"{root}: has no folders train/CLASS or val/CLASS with pictures")
        info = _info(root)
        folders = _names(root, info, "folders", found)
        names = _names(root, info, "classes", list(folders))
        if len(names) != len(folders):
            raise DrnError(
                f"{root / 'info.json'}: names {len(names)} classes and {len(folders)} folders"
            )
        if len(set(folders)) < len(folders):
            twice = next(name for name in folders if folders.count(name) > 1)
            raise DrnError(f"{root / 'info.json'}: names the folder {twice} twice")
        strangers = sorted(set(found) - set(folders))
        if strangers:
            raise DrnError(f"{root / 'info.json'}: does not name the class folder {strangers[0]}")
        return cls(root, folders, names)

    def samples(self, split: Split) -> list[ClassSample]:
        """List a split's pictures, class by class, each in the order of their names.

        A class may have no pictures, as in a validation set that is smaller.

        Raises:
            DrnError: The split is missing, has no pictures, or has a folder of no known class.
        """
        place = self.root / split
        strangers = sorted(set(_class_names(place)) - set(self.folders))
        if strangers:
            raise DrnError(f"{place / strangers[0]}: is no class of {self.root}")
        samples = [
            ClassSample(place / folder / name, target)
            for target, folder in enumerate(self.folders)
            for name in _picture_names(place / folder)
        ]
        if not samples:
            raise DrnError(f"{place}: has no pictures in class folders")
        return samples

    def statistics(self) -> Statistics:
        """Give mean and std from info.json, or what the field uses for pictures of this kind.

        Raises:
            DrnError: info.json has only one of them, or they are not three numbers in 0..1.
        """
        if _info(self.root).keys().isdisjoint({"mean", "std"}):
            return IMAGENET
        return ListFolder(self.root, self.root).statistics()


def is_class_folder(root: str | Path) -> bool:
    """Tell class folders from a list folder, by looking: lists decide, then folders of folders.

    What is neither, or is not there, counts as a list folder.

    Raises:
        DrnError: The folder cannot be read.
    """
    root = Path(root)
    lists = {f"{split}_images.txt" for split in ("train", "val", "test")}
    if any(entry.name in lists for entry in _entries(root)):
        return False
    return any(_class_names(root / split) for split in get_args(Split))


def _info(root: Path) -> dict[str, Any]:
    path = root / "info.json"
    info = read_json(path) if path.is_file() else {}
    if not isinstance(info, dict):
        raise DrnError(f"{path}: should hold an object")
    return info


def _names(root: Path, info: dict[str, Any], key: str, default: list[str]) -> tuple[str, ...]:
    names = info.get(key, default)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DrnError(f"{root / 'info.json'}: {key} should be a list of names")
    return tuple(names)


def _class_names(place: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(place) if entry.is_dir())


def _picture_names(place: Path) -> list[str]:
    endings = tuple(SUFFIXES)
    return sorted(entry.name for entry in _entries(place) if entry.name.lower().endswith(endings))


def _entries(place: Path) -> list[os.DirEntry[str]]:
    """List what is in a folder and not hidden; nothing, if it is no folder."""
    try:
        with os.scandir(place) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DrnError(f"{place}: cannot be read: {error.strerror or error}") from error
