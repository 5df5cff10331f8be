"""Images that occur twice, under one name or two."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.audit.findings import CheckFinding, ListLine


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An image of a split.

    Attributes:
        split: `train`, `val` or `test`.
        file: The image.
        digest: Of its pixels; empty if it could not be read.
        listed: Where a list names it.
    """

    split: str
    file: Path
    digest: bytes
    listed: ListLine | None = None


def duplicates(images: Iterable[Occurrence]) -> list[CheckFinding]:
    """Find the images that have occurred before, by their pixels.

    A training image that is validated or tested on is an error, since scores say nothing then;
    all else is a warning.

    Args:
        images: Training images first.
    """
    first: dict[bytes | Path, Occurrence] = {}
    findings = []
    for image in images:
        before = first.setdefault(image.digest or image.file, image)
        if before is not image:
            findings.append(_finding(image, before))
    return findings


def _finding(image: Occurrence, before: Occurrence) -> CheckFinding:
    place = f" ({before.listed})" if before.listed else ""
    if image.file == before.file:
        message = f"is named before, among the {before.split} images{place}"
    else:
        message = f"shows the same as {before.file}{place}, one of the {before.split} images"
    leak = before.split == "train" and image.split != "train"
    return CheckFinding(
        "error" if leak else "warning",
        "duplicate",
        message,
        image.file,
        "scores on training images say nothing: take it out of one of the two" if leak else None,
        image.listed,
    )
