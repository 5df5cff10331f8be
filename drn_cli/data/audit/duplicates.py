"""Duplicate images: listed twice, or two files with the same pixels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.audit.findings import CheckFinding, ListLine


@dataclass(frozen=True, slots=True)
class ImageDigest:
    """An image of a split and the hash of its pixels."""

    split: str  # train, val or test
    file: Path
    digest: bytes  # hash of its size and pixels; empty if it could not be read
    listed: ListLine | None = None


def find_duplicates(images: Iterable[ImageDigest]) -> Iterator[CheckFinding]:
    """Find images with the same pixels as an earlier one.

    A training image in the validation or test split is an error, because scores on it are
    meaningless; other duplicates are warnings.

    Args:
        images: Training images first.
    """
    first: dict[bytes | Path, ImageDigest] = {}
    for image in images:
        other = first.setdefault(image.digest or image.file, image)
        if other is image:
            continue
        place = f" ({other.listed})" if other.listed else ""
        if image.file == other.file:
            message = f"is listed twice, also as a {other.split} image{place}"
        else:
            message = f"has the same pixels as {other.file}{place}, a {other.split} image"
        leak = other.split == "train" and image.split != "train"
        yield CheckFinding(
            "error" if leak else "warning",
            "duplicate",
            message,
            image.file,
            "remove it from one split: scores on training images are meaningless" if leak else None,
            image.listed,
        )
