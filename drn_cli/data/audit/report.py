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
    """Frequency of a class in the training labels."""

    name: str
    pixels: int
    share: float  # of all training pixels with a class
    images: int  # label maps that contain it


@dataclass(frozen=True, slots=True)
class ClassImages:
    """Number of images of a class."""

    name: str
    folder: str
    images: Mapping[str, int]  # by split


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
    """Files of a split."""

    images: int  # including missing and unreadable ones
    labels: int  # likewise
    smallest: Size | None  # readable image by area; None without one
    largest: Size | None
    per_class: ClassStats | None = None  # None in list folders


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
    """Result of a check."""

    root: Path
    splits: Mapping[str, SplitStats]
    statistics: ChannelStats | None  # measured on the training images; None without any
    recorded: ChannelStats | None  # from info.json; None if missing or unused
    classes: Sequence[ClassPixels] | Sequence[ClassImages]  # empty without training labels
    class_weights: Mapping[str, Sequence[float]]  # one weight per class, by name of the formula
    highest_label: int | None  # except 255; None without labels
    class_count: int | None  # classes that labels are checked against, if known
    findings: Sequence[CheckFinding]  # sorted by in_order

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
