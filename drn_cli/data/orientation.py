"""Labels that do not follow the EXIF orientation of their image.

Cameras store pixels as the sensor reads them, with a tag for rotation. Labels are often drawn on
the stored pixels and saved without the tag, and then do not fit the rotated image. A rotation by 90
degrees shows in the sizes, one by 180 degrees only in the tags.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from drn_cli.data.images import Header, read_header
from drn_cli.errors import DrnError

Size = tuple[int, int]  # width and height, upright

EFFECTS = {
    2: "flips it horizontally",
    3: "rotates it by 180 degrees",
    4: "flips it vertically",
    5: "rotates it by 90 degrees and flips it",
    6: "rotates it by 90 degrees",
    7: "rotates it by 270 degrees and flips it",
    8: "rotates it by 270 degrees",
}


def size_error(label: Path, label_size: Size, image: Path, image_size: Size) -> DrnError:
    """Return the error for a label whose size differs from its image's."""
    problem, hint = size_problem(label_size, image, image_size)
    return DrnError(f"{label}: {problem}", hint)


def size_problem(label_size: Size, image: Path, image_size: Size) -> tuple[str, str]:
    """Describe a label whose size differs from its image's, perhaps due to EXIF orientation.

    Returns:
        The problem, to follow the label's name, and what to do.
    """
    problem = "is {}x{}, its image {} is {}x{}".format(*label_size, image, *image_size)
    with suppress(DrnError):
        header = read_header(image)
        if header.orientation in EFFECTS and header.size == label_size:
            effect = EFFECTS[header.orientation]
            return (
                f"{problem} after its EXIF orientation {header.orientation}, which {effect}",
                "rotate the label as well, or remove the tag from the image",
            )
    return problem, "replace the label, or resize it with nearest-neighbor interpolation"


def orientation_mismatch(image: Header, label: Header) -> str | None:
    """Describe an orientation that the image has and the label lacks, if their sizes agree."""
    if image.upright != label.upright or image.orientation == label.orientation:
        return None
    if label.orientation != 1 or image.size != label.size:
        return None
    return (
        f"EXIF orientation {image.orientation} {EFFECTS[image.orientation]}, but its label has "
        "none: if it was drawn on the stored pixels, it does not fit (look: drn data show)"
    )


def first_and_count(messages: Sequence[str]) -> str:
    """Return the first of several messages of one kind, and the number of other images."""
    others = len(messages) - 1
    return messages[0] + (f"; the same for {others:,} other images" if others else "")


def find_orientation_mismatch(image: Path, label: Path) -> str | None:
    """Compare the headers of a pair; None for unreadable files, which are reported elsewhere."""
    try:
        header = read_header(image)
        return orientation_mismatch(header, read_header(label)) if header.orientation != 1 else None
    except DrnError:
        return None
