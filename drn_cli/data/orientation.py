"""What EXIF orientation does to an image and its label: the image is turned, a label may not be.

Cameras store pixels as the sensor reads them, with a tag that says how to turn them. Labels are
often drawn on the pixels as they are stored, and saved without the tag: then they do not fit the
image that everyone sees. A difference in size shows it; upside down, nothing does but the tag.
"""

from collections.abc import Sequence
from pathlib import Path

from drn_cli.data.images import Header, read_header
from drn_cli.errors import DrnError

Size = tuple[int, int]  # width and height, upright

TURNS = {
    2: "mirrors it",
    3: "turns it by 180 degrees",
    4: "turns it upside down, mirrored",
    5: "turns it by 90 degrees, mirrored",
    6: "turns it by 90 degrees",
    7: "turns it by 270 degrees, mirrored",
    8: "turns it by 270 degrees",
}


def size_error(label: Path, label_size: Size, image: Path, image_size: Size) -> DrnError:
    """Return the error of a label of another size than its image, which orientation may cause."""
    problem, hint = size_problem(label_size, image, image_size)
    return DrnError(f"{label}: {problem}", hint)


def size_problem(label_size: Size, image: Path, image_size: Size) -> tuple[str, str]:
    """Describe a label of another size than its image, and what the image's orientation has to do.

    Returns:
        The problem, to follow the label's name, and what to do.
    """
    said = "is {}x{}, its image {} {}x{}".format(*label_size, image, *image_size)
    turned: Header | None
    try:
        turned = read_header(image)
    except DrnError:
        turned = None
    if turned and turned.orientation in TURNS and turned.size == label_size:
        return (
            f"{said} after its EXIF orientation {turned.orientation}, which "
            f"{TURNS[turned.orientation]}",
            "turn the label too, or remove the tag from the image",
        )
    return said, "replace the label, or bring it to that size without mixing ids: nearest neighbor"


def orientation_mismatch(image: Header, label: Header) -> str | None:
    """Return how an image is turned and its label is not, where their sizes do not show it."""
    if image.upright != label.upright or image.orientation == label.orientation:
        return None
    if label.orientation != 1 or image.size != label.size:
        return None
    return (
        f"EXIF orientation {image.orientation} {TURNS[image.orientation]}, and its label has none: "
        "if it was drawn on the pixels as they are stored, it does not fit (look: drn data show)"
    )


def first_and_count(messages: Sequence[str]) -> str:
    """Return the first of the messages about images that are turned, and how many there are."""
    others = len(messages) - 1
    return messages[0] + (f"; the same of {others:,} other images" if others else "")


def find_orientation_mismatch(image: Path, label: Path) -> str | None:
    """Read two headers for `silent_turn`; None for what cannot be read, which others report."""
    try:
        turned = read_header(image)
        return orientation_mismatch(turned, read_header(label)) if turned.orientation != 1 else None
    except DrnError:
        return None
