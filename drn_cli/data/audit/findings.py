"""What an audit finds: how bad it is, of which kind, in which file, and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drn_cli.errors import DrnError

Severity = Literal["error", "warning"]

# Every kind of finding, in the order in which they are shown, with the words over each group.
KINDS: Mapping[str, str] = {
    "info": "info.json",
    "list": "lists",
    "missing": "files that are not there",
    "unreadable": "files that cannot be read",
    "size": "labels of another size than their image",
    "orientation": "images that are turned and their labels are not",
    "class-count": "number of classes",
    "colour-label": "labels that hold colours",
    "label-ids": "label ids where train ids are meant",
    "label-values": "label values that are no class",
    "duplicate": "images that occur twice",
    "class-folder": "class folders",
    "left-out": "what is not used",
    "pairing": "images and labels whose names do not belong together",
    "lossy-label": "labels in a format that changes values",
    "void": "labels without a labelled pixel",
    "unlabelled-class": "classes without training pixels",
    "statistics": "mean and std",
}


@dataclass(frozen=True, slots=True)
class ListLine:
    """Where a list names a file: the list's name and the line, counted from 1."""

    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """One thing that is wrong or odd.

    Attributes:
        severity: `error` where training would fail or learn something wrong, `warning` where
            something is odd.
        kind: One of `KINDS`.
        message: What is wrong, without the file.
        file: The file or folder.
        hint: What to do about it, if that is not obvious.
        listed: Where a list names the file.
        values: Pixels of each label value that it is about.
    """

    severity: Severity
    kind: str
    message: str
    file: Path
    hint: str | None = None
    listed: ListLine | None = None
    values: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, error: DrnError, file: Path) -> "CheckFinding":
        """Make an error about a file a finding; its message may start with the file's name."""
        return cls("error", kind, error.message.removeprefix(f"{file}: "), file, error.hint)

    def __str__(self) -> str:
        place = f" ({self.listed})" if self.listed else ""
        return f"{self.file}{place}: {self.message}"

    def error(self) -> DrnError:
        """Make the finding an error, for whoever cannot go on with it."""
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
