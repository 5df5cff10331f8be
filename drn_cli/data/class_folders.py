"""Class folders: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, the layout of ImageNet.

Class ids follow the sorted folder names, as in torchvision. An optional `info.json` contains the
folders in this order and the class names: `{"folders": ["n01440764", ...], "classes": ["tench",
...], "mean": [...], "std": [...]}`; all keys are optional. Hidden files and folders, whose names
start with a dot, are skipped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from drn_cli.data.file_search import OUTSIDE, SUBFOLDER, LeftOut, entries, list_files, list_folders
from drn_cli.data.folders import IMAGENET, PREPARE_ONE, ChannelStats, ListDataset, read_info
from drn_cli.errors import DrnError
from drn_cli.files import require_folder

Split = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class ClassSample:
    """Path of an image and its class id."""

    image: Path
    target: int


@dataclass(frozen=True, slots=True)
class FolderDataset:
    """A folder of class folders."""

    root: Path  # folder of train/ and val/
    folders: tuple[str, ...]  # names of the class folders, by class id
    names: tuple[str, ...]  # display names of the classes

    @classmethod
    def open(cls, root: str | Path) -> "FolderDataset":
        """Find the classes.

        Raises:
            DrnError: The folder is missing, unreadable or without classes, or info.json does not
                match it.
        """
        root = Path(root)
        require_folder(root, "class folders", PREPARE_ONE, noun="data folder")
        found = list_folders(root / "train") or list_folders(root / "val")
        if not found:
            raise DrnError(f"{root}: contains no folders train/CLASS or val/CLASS")
        info = read_info(root)
        folders = _names(root, info, "folders", found)
        names = _names(root, info, "classes", list(folders))
        if len(names) != len(folders):
            raise DrnError(
                f"{root / 'info.json'}: has {len(names)} classes and {len(folders)} folders"
            )
        if len(set(folders)) < len(folders):
            twice = next(name for name in folders if folders.count(name) > 1)
            raise DrnError(f"{root / 'info.json'}: lists the folder {twice} twice")
        if unlisted := sorted(set(found) - set(folders)):
            raise DrnError(f"{root / 'info.json'}: does not list the class folder {unlisted[0]}")
        return cls(root, folders, names)

    def samples(self, split: Split, left_out: LeftOut | None = None) -> list[ClassSample]:
        """List the images of a split by class id, then by name.

        A class may have no images, for example in a small validation set.

        Args:
            split: `train` or `val`.
            left_out: Collects skipped files and folders.

        Raises:
            DrnError: The split is missing, has no images, or has a folder of an unknown class.
        """
        place = self.root / split
        left_out = LeftOut() if left_out is None else left_out
        if unknown := sorted(set(list_folders(place)) - set(self.folders)):
            raise DrnError(f"{place / unknown[0]}: is not a class of {self.root}")
        samples = [
            ClassSample(place / folder / name, target)
            for target, folder in enumerate(self.folders)
            for name in list_files(place / folder, left_out, below=SUBFOLDER)
        ]
        for name in list_files(place, LeftOut(), below=SUBFOLDER):
            left_out.add(OUTSIDE, f"{split}/{name}")
        if not samples:
            raise DrnError(f"{place}: contains no images in class folders")
        return samples

    def statistics(self) -> ChannelStats:
        """Return mean and std from info.json, or those of ImageNet if it has neither.

        Raises:
            DrnError: info.json has only one of them, or they are not three numbers in 0..1.
        """
        return self.recorded_statistics() or IMAGENET

    def recorded_statistics(self) -> ChannelStats | None:
        """Read mean and std from info.json, as `ListDataset.recorded_statistics`."""
        return ListDataset(self.root, self.root).recorded_statistics()


def is_class_folder(root: str | Path) -> bool:
    """Whether a data folder has class folders and no lists.

    Raises:
        DrnError: The folder cannot be read.
    """
    root = Path(root)
    lists = {f"{split}_images.txt" for split in ("train", "val", "test")}
    if lists & {entry.name for entry in entries(root, missing_ok=True)}:
        return False
    return any(list_folders(root / split) for split in get_args(Split))


def _names(root: Path, info: dict[str, Any], key: str, default: list[str]) -> tuple[str, ...]:
    names = info.get(key, default)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DrnError(f"{root / 'info.json'}: {key} has to be a list of names")
    return tuple(names)
