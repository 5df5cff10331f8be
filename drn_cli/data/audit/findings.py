"""Findings of a check: severity, kind, file, message and hint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drn_cli.errors import DrnError

Severity = Literal["error", "warning"]

# Kinds of findings in the order shown, with the heading of each group.
KINDS: Mapping[str, str] = {
    "info": "info.json",
    "list": "lists",
    "missing": "missing files",
    "unreadable": "unreadable files",
    "size": "label size differs from image size",
    "orientation": "rotated images whose labels are not",
    "class-count": "number of classes",
    "colour-label": "color images as labels",
    "label-ids": "label ids instead of train ids",
    "label-values": "invalid label values",
    "duplicate": "duplicate images",
    "class-folder": "class folders",
    "left-out": "unused files",
    "pairing": "image and label names that do not match",
    "lossy-label": "labels in a lossy format",
    "void": "labels without labeled pixels",
    "unlabelled-class": "classes without training pixels",
    "statistics": "mean and std",
}


@dataclass(frozen=True, slots=True)
class ListLine:
    """The list and line, counted from 1, that contain a file."""

    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """A problem of a data folder."""

    severity: Severity  # error if training would fail or learn something wrong
    kind: str  # one of KINDS
    message: str  # without the file
    file: Path  # file or folder
    hint: str | None = None  # what to do about it, if that is not obvious
    listed: ListLine | None = None
    values: Mapping[int, int] = field(default_factory=dict)  # pixels of each label value concerned

    @classmethod
    def of(cls, kind: str, error: DrnError, file: Path) -> "CheckFinding":
        """Convert an error about a file; the file name is removed from its message."""
        return cls("error", kind, error.message.removeprefix(f"{file}: "), file, error.hint)

    def __str__(self) -> str:
        place = f" ({self.listed})" if self.listed else ""
        return f"{self.file}{place}: {self.message}"

    def error(self) -> DrnError:
        """Convert the finding to an exception."""
        return DrnError(str(self), self.hint)

    def to_json(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "kind": self.kind,
            "file": str(self.file),
            "list": self.listed.name if self.listed else None,
            "line": self.listed.line if self.listed else None,
            "message": self.message,
            "hint": self.hint,
            "values": [{"value": value, "pixels": n} for value, n in self.values.items()],
        }
