"""Report of a check: splits, classes, statistics and findings."""

import statistics as numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drn_cli.data.audit.findings import KINDS, CheckFinding
from drn_cli.data.audit.reading import Size
from drn_cli.data.folders import ChannelStats


@dataclass(frozen=True, slots=True)
class ClassPixels:
    """Frequency of a class in the training labels.

    Attributes:
        name: Class name.
        pixels: Number of its pixels.
        share: Share of all training pixels with a class.
        images: Number of label maps that contain it.
    """

    name: str
    pixels: int
    share: float
    images: int


@dataclass(frozen=True, slots=True)
class ClassImages:
    """Number of images of a class.

    Attributes:
        name: Class name.
        folder: Name of its folder.
        images: Number of images by split.
    """

    name: str
    folder: str
    images: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ClassStats:
    """Number of images per class, over the classes of a split."""

    min: int
    median: float
    max: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> "ClassStats":
        return cls(min(counts), numbers.median(counts), max(counts))


@dataclass(frozen=True, slots=True)
class SplitStats:
    """Files of a split.

    Attributes:
        images: Number of images, including missing and unreadable ones.
        labels: Number of label maps, likewise.
        smallest: Size of the smallest readable image by area; None without one.
        largest: Size of the largest, likewise.
        per_class: Images per class; None in list folders.
    """

    images: int
    labels: int
    smallest: Size | None
    largest: Size | None
    per_class: ClassStats | None = None


def extremes(sizes: Iterable[Size | None]) -> tuple[Size | None, Size | None]:
    """Return the smallest and the largest size by area, ignoring None."""
    known = {size for size in sizes if size}
    if not known:
        return None, None
    ordered = sorted(known, key=lambda size: (size[0] * size[1], size))
    return ordered[0], ordered[-1]


def in_order(findings: Iterable[CheckFinding]) -> list[CheckFinding]:
    """Sort findings: errors first, then by kind; stable within a kind."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda f: (f.severity != "error", kinds.index(f.kind)))


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Result of a check.

    Attributes:
        root: The data folder.
        splits: Statistics of each split by name.
        statistics: Mean and std measured on the training images; None without any.
        recorded: Mean and std in info.json; None if missing or unused.
        classes: One entry per class; empty without training labels.
        class_weights: One weight per class, by name of the formula.
        highest_label: Highest label value except 255; None without labels.
        class_count: Number of classes that labels are checked against, if known.
        findings: Problems, sorted by `in_order`.
    """

    root: Path
    splits: Mapping[str, SplitStats]
    statistics: ChannelStats | None
    recorded: ChannelStats | None
    classes: Sequence[ClassPixels] | Sequence[ClassImages]
    class_weights: Mapping[str, Sequence[float]]
    highest_label: int | None
    class_count: int | None
    findings: Sequence[CheckFinding]

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors

    def to_json(self) -> dict[str, Any]:
        splits = {name: asdict(split) for name, split in self.splits.items()}
        for split in splits.values():
            if (each := split.pop("per_class")) is not None:
                split["images_per_class"] = each
        return {
            "root": str(self.root),
            "ok": not self.errors,
            "splits": splits,
            "statistics": {
                "measured": asdict(self.statistics) if self.statistics else None,
                "recorded": asdict(self.recorded) if self.recorded else None,
            },
            "per_class": [asdict(entry) for entry in self.classes],
            "class_weights": dict(self.class_weights),
            "highest_label": self.highest_label,
            "classes": self.class_count,
            "findings": [finding.to_json() for finding in self.findings],
        }
