"""Class folders: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, the layout of ImageNet.

The order of the classes is the sorted order of the folders' names, as everywhere in the field.
`info.json`, where there is one, names the folders in this order and what people call the classes:
`{"folders": ["n01440764", ...], "classes": ["tench", ...], "mean": [...], "std": [...]}`; each
part may be left out. What is hidden, its name starting with a dot, is nobody's class or image.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from drn_cli.data.file_search import (
    OUTSIDE,
    SUBFOLDER,
    LeftOut,
    entries,
    list_files,
    list_folders,
)
from drn_cli.data.folders import IMAGENET, PREPARE_ONE, ChannelStats, ListDataset
from drn_cli.errors import DrnError
from drn_cli.files import read_json, require_folder

Split = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class ClassSample:
    """One image and the number of its class."""

    image: Path
    target: int


@dataclass(frozen=True, slots=True)
class FolderDataset:
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
    def open(cls, root: str | Path) -> "FolderDataset":
        """Find the classes.

        Raises:
            DrnError: The folder is missing or cannot be read, has no classes, or info.json
                contradicts them.
        """
        root = Path(root)
        require_folder(root, "class folders", PREPARE_ONE, noun="data folder")
        found = list_folders(root / "train") or list_folders(root / "val")
        if not found:
            raise DrnError(f"{root}: has no folders train/CLASS or val/CLASS with images")
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

    def samples(self, split: Split, left_out: LeftOut | None = None) -> list[ClassSample]:
        """List a split's images, class by class, each in the order of their names.

        A class may have no images, as in a validation set that is smaller.

        Args:
            split: `train` or `val`.
            left_out: Collects what is in the folders and is not used.

        Raises:
            DrnError: The split is missing, has no images, or has a folder of no known class.
        """
        place = self.root / split
        left_out = LeftOut() if left_out is None else left_out
        strangers = sorted(set(list_folders(place)) - set(self.folders))
        if strangers:
            raise DrnError(f"{place / strangers[0]}: is no class of {self.root}")
        samples = [
            ClassSample(place / folder / name, target)
            for target, folder in enumerate(self.folders)
            for name in list_files(place / folder, left_out, below=SUBFOLDER)
        ]
        for name in list_files(place, LeftOut(), below=SUBFOLDER):
            left_out.add(OUTSIDE, f"{split}/{name}")
        if not samples:
            raise DrnError(f"{place}: has no images in class folders")
        return samples

    def statistics(self) -> ChannelStats:
        """Give mean and std from info.json, or what the field uses for images of this kind.

        Raises:
            DrnError: info.json has only one of them, or they are not three numbers in 0..1.
        """
        return self.recorded_statistics() or IMAGENET

    def recorded_statistics(self) -> ChannelStats | None:
        """Read mean and std from info.json; None if it has neither, or is missing.

        Raises:
            DrnError: info.json has only one of them, or they are not three numbers in 0..1.
        """
        return ListDataset(self.root, self.root).recorded_statistics()


def is_class_folder(root: str | Path) -> bool:
    """Tell class folders from a list folder, by looking: lists decide, then folders of folders.

    What is neither, or is not there, counts as a list folder.

    Raises:
        DrnError: The folder cannot be read.
    """
    root = Path(root)
    lists = {f"{split}_images.txt" for split in ("train", "val", "test")}
    if lists & {entry.name for entry in entries(root, missing_ok=True)}:
        return False
    return any(list_folders(root / split) for split in get_args(Split))


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
