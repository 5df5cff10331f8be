"""Pictures that occur twice, under one name or two."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.audit.findings import Finding, Listed


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A picture of a split.

    Attributes:
        split: `train`, `val` or `test`.
        file: The picture.
        digest: Of its pixels; empty if it could not be read.
        listed: Where a list names it.
    """

    split: str
    file: Path
    digest: bytes
    listed: Listed | None = None


def duplicates(pictures: Iterable[Occurrence]) -> list[Finding]:
    """Find the pictures that have occurred before, by their pixels.

    A training picture that is validated or tested on is an error, since scores say nothing then;
    all else is a warning.

    Args:
        pictures: Training pictures first.
    """
    first: dict[bytes | Path, Occurrence] = {}
    findings = []
    for picture in pictures:
        before = first.setdefault(picture.digest or picture.file, picture)
        if before is not picture:
            findings.append(_finding(picture, before))
    return findings


def _finding(picture: Occurrence, before: Occurrence) -> Finding:
    place = f" ({before.listed})" if before.listed else ""
    if picture.file == before.file:
        message = f"is named before, among the {before.split} pictures{place}"
    else:
        message = f"shows the same as {before.file}{place}, one of the {before.split} pictures"
    leak = before.split == "train" and picture.split != "train"
    return Finding(
        "error" if leak else "warning",
        "duplicate",
        message,
        picture.file,
        "scores on training pictures say nothing: take it out of one of the two" if leak else None,
        picture.listed,
    )
