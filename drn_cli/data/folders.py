"""List folders: text files that name the images and labels of each split, and info.json.

The format is a public interface. `{split}_images.txt` and `{split}_labels.txt` hold one path a
line, relative to the data folder, in the same order; `info.json` holds the mean and standard
deviation of the training images, in 0..1, and, where `drn` wrote it, class names and colours.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drn_cli.data.classes import ClassSet, generic
from drn_cli.errors import DrnError
from drn_cli.files import read_json, read_text, require_folder

Split = Literal["train", "val", "test"]

PREPARE_ONE = "prepare one with `drn data prepare`, or name yours with data.root=DIR"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and, where there is one, its label map."""

    image: Path
    label: Path | None


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """Per-channel mean and standard deviation (RGB) of images in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


MEANS, DEVIATIONS = (0.0, 1.0), (1e-6, 1.0)  # what they may be, from and to

# What published weights were trained with; their files do not say.
IMAGENET = ChannelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CITYSCAPES = ChannelStats((0.290101, 0.328081, 0.286964), (0.182954, 0.186566, 0.184475))


@dataclass(frozen=True, slots=True)
class ListDataset:
    """A data folder.

    Attributes:
        root: Where the paths in the lists start.
        lists: Folder of the lists and of info.json; the root itself if there is no other.
    """

    root: Path
    lists: Path

    @classmethod
    def open(cls, root: str | Path, lists: str | Path | None = None) -> "ListDataset":
        """Find the folder; raises DrnError if it or its list folder is missing or a file."""
        folder = cls(Path(root), Path(root if lists is None else lists))
        for path in (folder.root, folder.lists):
            require_folder(path, "lists (train_images.txt, ...)", PREPARE_ONE, noun="data folder")
        return folder

    def samples(self, split: Split, *, labels: bool = True) -> list[Sample]:
        """Read the lists of a split.

        Args:
            split: `train`, `val` or `test`.
            labels: Whether label maps are needed. Without, they are left out even if they exist.

        Raises:
            DrnError: A list is missing or empty, the two differ in length, or a file that they
                name does not exist.
        """
        images = self._paths(f"{split}_images.txt")
        if not labels:
            return [Sample(image, None) for image in images]
        maps = self._paths(f"{split}_labels.txt")
        if len(images) != len(maps):
            raise DrnError(
                f"{self.lists}: {split}_images.txt names {len(images)} files and "
                f"{split}_labels.txt {len(maps)}; line by line they should belong together"
            )
        return [Sample(image, label) for image, label in zip(images, maps, strict=True)]

    def _paths(self, name: str) -> list[Path]:
        path = self.lists / name
        if not path.exists():
            raise DrnError(f"{path}: no such list")
        lines = read_text(path).splitlines()
        named = [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]
        if not named:
            raise DrnError(f"{path}: the list is empty")
        missing = [(n, entry) for n, entry in named if not (self.root / entry).is_file()]
        if missing:
            number, entry = missing[0]
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DrnError(f"{path}:{number}: {self.root / entry} does not exist{more}")
        return [self.root / entry for _, entry in named]

    def statistics(self) -> ChannelStats:
        """Read mean and std from info.json.

        Raises:
            DrnError: They are missing, or not three numbers in 0..1, the std 1e-6 at least.
        """
        path = self.lists / "info.json"
        if not path.is_file():
            raise DrnError(
                f"{path}: no such file",
                'write {"mean": [r, g, b], "std": [r, g, b]} of the training images, in 0..1',
            )
        info = self._info()
        return ChannelStats(
            _three(info.get("mean"), f"{path}: mean", MEANS),
            _three(info.get("std"), f"{path}: std", DEVIATIONS),
        )

    def recorded_statistics(self) -> ChannelStats | None:
        """Read mean and std from info.json; None if it has neither, or is missing.

        Raises:
            DrnError: It has only one of them, or they are not as `statistics` wants them.
        """
        return None if self._info().keys().isdisjoint({"mean", "std"}) else self.statistics()

    def class_pixels(self, split: Split, classes: int) -> tuple[int, ...] | None:
        """Read from info.json how many pixels each class has in the labels of a split.

        Returns:
            None where preparation did not count them, or the list or the number of classes has
            changed since.
        """
        counts = self._info().get("class_pixels")
        counted = counts.get(split) if isinstance(counts, dict) else None
        if not isinstance(counted, dict):
            return None
        pixels, named = counted.get("pixels"), self.lists / f"{split}_labels.txt"
        if not isinstance(pixels, list) or len(pixels) != classes:
            return None
        if not all(type(count) is int and count >= 0 for count in pixels):
            return None
        try:
            lines = read_text(named).splitlines()
        except DrnError:
            return None
        return tuple(pixels) if counted.get("list") == list_digest(lines) else None

    def class_set(self, count: int) -> ClassSet:
        """Read class names and colours from info.json, or make some up.

        Raises:
            DrnError: info.json names another number of classes than `count`, or its colours are
                none.
        """
        named = self.named_classes()
        if named is None:
            return generic(count)
        if len(named) != count:
            raise DrnError(
                f"{self.lists / 'info.json'}: names {len(named)} classes, the network has {count}",
                f"set data.classes={len(named)}",
            )
        return named

    def named_classes(self) -> ClassSet | None:
        """Read class names and colours from info.json, if it has both.

        Raises:
            DrnError: Their numbers differ, or the colours are none.
        """
        info = self._info()
        names, colours = info.get("classes"), info.get("colours")
        if names is None or colours is None:
            return None
        if not isinstance(names, list) or not isinstance(colours, list):
            raise DrnError(f"{self.lists / 'info.json'}: classes and colours should be lists")
        if len(names) != len(colours):
            raise DrnError(
                f"{self.lists / 'info.json'}: names {len(names)} classes and {len(colours)} colours"
            )
        try:
            # bytes() refuses what is not in 0..255
            table = tuple((r, g, b) for r, g, b in map(bytes, colours))
        except (TypeError, ValueError) as error:
            raise DrnError(
                f"{self.lists / 'info.json'}: colours should be [r, g, b] in 0..255 for each class"
            ) from error
        return ClassSet(tuple(str(name) for name in names), table)

    def _info(self) -> dict[str, object]:
        path = self.lists / "info.json"
        info = read_json(path) if path.is_file() else {}
        if not isinstance(info, dict):
            raise DrnError(f"{path}: should hold an object with mean and std")
        return info


def list_digest(lines: Iterable[str]) -> str:
    """Return 16 hex digits that tell a list of paths from others; empty lines do not count."""
    paths = "\n".join(path for line in lines if (path := line.strip()))
    return hashlib.sha256(paths.encode()).hexdigest()[:16]


def _three(value: object, where: str, limits: tuple[float, float]) -> tuple[float, float, float]:
    low, high = limits
    if (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(number, int | float) and low <= number <= high for number in value)
    ):
        return (float(value[0]), float(value[1]), float(value[2]))
    raise DrnError(f"{where} should be three numbers in {low:g}..{high:g}, got {value!r}")
