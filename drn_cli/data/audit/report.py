"""What an audit says in the end."""

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
    """How often a class occurs in the training labels.

    Attributes:
        name: What people call it.
        pixels: Its pixels.
        share: Of all training pixels that have a class.
        images: Label maps in which it occurs.
    """

    name: str
    pixels: int
    share: float
    images: int


@dataclass(frozen=True, slots=True)
class ClassImages:
    """How many images a class has in each split.

    Attributes:
        name: What people call it.
        folder: Name of its folder.
        images: By the name of the split.
    """

    name: str
    folder: str
    images: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ClassStats:
    """Images of a class, over the classes of a split."""

    min: int
    median: float
    max: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> "ClassStats":
        return cls(min(counts), numbers.median(counts), max(counts))


@dataclass(frozen=True, slots=True)
class SplitStats:
    """The files of a split.

    Attributes:
        images: How many there should be.
        labels: How many label maps there should be.
        smallest: Of the images that can be read, by their area; None if none can.
        largest: Likewise.
        per_class: In class folders.
    """

    images: int
    labels: int
    smallest: Size | None
    largest: Size | None
    per_class: ClassStats | None = None


def extremes(sizes: Iterable[Size | None]) -> tuple[Size | None, Size | None]:
    """Find the smallest and the largest of sizes by area, leaving out what could not be read."""
    known = {size for size in sizes if size}
    if not known:
        return None, None
    ordered = sorted(known, key=lambda size: (size[0] * size[1], size))
    return ordered[0], ordered[-1]


def in_order(findings: Iterable[CheckFinding]) -> list[CheckFinding]:
    """Sort findings: errors first, then by kind; within a kind they stay as they were found."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda f: (f.severity != "error", kinds.index(f.kind)))


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of an audit.

    Attributes:
        root: The data folder.
        splits: By name.
        statistics: Mean and std, measured on the training images; None without any.
        recorded: The same as info.json has it; None if it has not, or is not used.
        classes: One entry a class; empty if there are no training labels.
        class_weights: One weight a class, by the name of the formula.
        highest_label: The highest label value but 255, over all labels; None without labels.
        class_count: How many classes there are, if anybody says so; labels are judged by it.
        findings: What is wrong, as `in_order` puts it.
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
