"""List folders: data folders with text files that list images and labels, and info.json.

The format is a public interface. `{split}_images.txt` and `{split}_labels.txt` contain one path per
line, relative to the data folder, in the same order. `info.json` contains the mean and standard
deviation of the training images, in 0..1, and optionally class names and colors.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drn_cli.data.classes import ClassSet, generic
from drn_cli.errors import DrnError
from drn_cli.files import read_json, read_text, require_folder

Split = Literal["train", "val", "test"]

PREPARE_ONE = "prepare one with `drn data prepare`; a recipe names it with data.root=DIR"


@dataclass(frozen=True, slots=True)
class Sample:
    """Paths of an image and its label map; None without one."""

    image: Path
    label: Path | None


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """Per-channel mean and standard deviation (RGB) of images in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


MEANS, DEVIATIONS = (0.0, 1.0), (1e-6, 1.0)  # valid ranges

# Statistics that published weights were trained with; their files do not contain them.
IMAGENET = ChannelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CITYSCAPES = ChannelStats((0.290101, 0.328081, 0.286964), (0.182954, 0.186566, 0.184475))


@dataclass(frozen=True, slots=True)
class ListDataset:
    """A list folder."""

    root: Path  # folder that the paths in the lists are relative to
    lists: Path  # folder of the lists and info.json

    @classmethod
    def open(cls, root: str | Path, lists: str | Path | None = None) -> "ListDataset":
        """Open a folder whose lists are in itself or in `lists`.

        Raises:
            DrnError: One of them is missing or not a folder.
        """
        folder = cls(Path(root), Path(root if lists is None else lists))
        for path in (folder.root, folder.lists):
            require_folder(path, "lists (train_images.txt, ...)", PREPARE_ONE, noun="data folder")
        return folder

    def samples(self, split: Split, *, labels: bool = True) -> list[Sample]:
        """Read the lists of a split.

        Args:
            split: `train`, `val` or `test`.
            labels: Whether to read label maps; otherwise each sample has None.

        Raises:
            DrnError: A list is missing or empty, the two differ in length, or a listed file does
                not exist.
        """
        images = self._paths(f"{split}_images.txt")
        if not labels:
            return [Sample(image, None) for image in images]
        maps = self._paths(f"{split}_labels.txt")
        if len(images) != len(maps):
            raise DrnError(
                f"{self.lists}: {split}_images.txt lists {len(images)} files, "
                f"{split}_labels.txt {len(maps)}",
                "each line of one belongs to the same line of the other",
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
            DrnError: They are missing, or not three numbers each in 0..1, or a std is below 1e-6.
        """
        path = self.lists / "info.json"
        if not path.is_file():
            raise DrnError(
                f"{path}: no such file",
                'write {"mean": [r, g, b], "std": [r, g, b]} of the training images, in 0..1',
            )
        info = read_info(self.lists)
        return ChannelStats(
            _three(info.get("mean"), f"{path}: mean", MEANS),
            _three(info.get("std"), f"{path}: std", DEVIATIONS),
        )

    def recorded_statistics(self) -> ChannelStats | None:
        """Read mean and std from info.json; None if it has neither or does not exist.

        Raises:
            DrnError: It has only one of them, or one is invalid, as in `statistics`.
        """
        recorded = read_info(self.lists).keys() & {"mean", "std"}
        return self.statistics() if recorded else None

    def class_pixels(self, split: Split, classes: int) -> tuple[int, ...] | None:
        """Read the number of label pixels per class in a split from info.json.

        Returns:
            None if preparation did not count them, or the list or the number of classes has changed
            since.
        """
        counts = read_info(self.lists).get("class_pixels")
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
        """Read class names and colors from info.json, or generate them if it has none.

        Raises:
            DrnError: info.json has a number of classes other than `count`, or invalid colors.
        """
        named = self.named_classes()
        if named is None:
            return generic(count)
        if len(named) != count:
            raise DrnError(
                f"{self.lists / 'info.json'}: has {len(named)} classes, the network {count}",
                f"set data.classes={len(named)}",
            )
        return named

    def named_classes(self) -> ClassSet | None:
        """Read class names and colors from info.json; None unless it has both.

        Raises:
            DrnError: Their numbers differ, or a color is invalid.
        """
        info = read_info(self.lists)
        names, colours = info.get("classes"), info.get("colours")
        if names is None or colours is None:
            return None
        if not isinstance(names, list) or not isinstance(colours, list):
            raise DrnError(f"{self.lists / 'info.json'}: classes and colours have to be lists")
        if len(names) != len(colours):
            raise DrnError(
                f"{self.lists / 'info.json'}: has {len(names)} classes and {len(colours)} colours"
            )
        try:
            # bytes() raises ValueError for values outside 0..255
            table = tuple((r, g, b) for r, g, b in map(bytes, colours))
        except (TypeError, ValueError) as error:
            raise DrnError(
                f"{self.lists / 'info.json'}: colours have to be [r, g, b] in 0..255 per class"
            ) from error
        return ClassSet(tuple(str(name) for name in names), table)


def read_info(folder: Path) -> dict[str, Any]:
    """Read the info.json of a folder; an empty dictionary without one.

    Raises:
        DrnError: It cannot be read, or is not a JSON object.
    """
    path = folder / "info.json"
    info = read_json(path) if path.is_file() else {}
    if not isinstance(info, dict):
        raise DrnError(f"{path}: has to be a JSON object")
    return info


def list_digest(lines: Iterable[str]) -> str:
    """Return the first 16 hex digits of the SHA-256 of a list of paths, without empty lines."""
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
    raise DrnError(f"{where} has to be three numbers in {low:g}..{high:g}, got {value!r}")
