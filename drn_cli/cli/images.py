"""Images and results of `predict` and `localize`, in one or several processes."""

import sys
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from drn_cli.cli import console
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from drn_cli.data.images import Pixels
    from drn_cli.inference.inputs import InputImage

    Numbered = tuple[int, InputImage]

Result = TypeVar("Result")


def _set_pixel_limit(pixels: int | None) -> None:
    if pixels is not None:
        from drn_cli.data.image_formats import set_pixel_limit

        set_pixel_limit(pixels)


MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=_set_pixel_limit,
        help="Reject images whose headers state more pixels. Default: 160000000.",
    ),
]


def read_input(item: "Numbered") -> "Pixels":
    """Read an image from its file, or from stdin for `-`; raises DrnError as `read_image`."""
    from drn_cli.data.images import read_image

    path = item[1].path
    return read_image(sys.stdin.buffer if path == "-" else Path(path), frames="first")


def display_name(image: "InputImage") -> str:
    """Return the name of an image in messages."""
    return "stdin" if image.path == "-" else image.path


def with_progress(
    results: "Iterable[tuple[Numbered, Result | DrnError]]",
    total: int,
    failed: list[tuple[int, dict[str, Any]]],
    *,
    shown: bool,
) -> "Iterator[tuple[int, InputImage, Result]]":
    """Yield the result of each image with a progress bar, and report images that failed.

    Args:
        results: Results of `stream`.
        total: Number of images.
        failed: Receives the number and the JSON entry of each image that failed.
        shown: Whether this process shows the progress bar.
    """
    from drn_cli.inference.score_maps import NonFiniteScoresError

    with console.bar(total, shown=shown) as bar:
        for (number, image), result in results:
            if isinstance(result, DrnError):
                nameless = isinstance(result, NonFiniteScoresError)
                error = NonFiniteScoresError(display_name(image)) if nameless else result
                console.fail(error)
                failed.append((number, {"image": image.path, "error": error.message}))
            else:
                yield number, image, result
            bar.update()


def count_images(number: int) -> str:
    """Format a number of images: `1 image`, `12 images`."""
    return f"{number} image{'' if number == 1 else 's'}"


def merge_in_order(parts: Iterable[Iterable[tuple[int, Result]]]) -> list[Result]:
    """Merge the numbered results of all processes in the order of the images."""
    numbered = (one for part in parts for one in part)
    return [entry for _, entry in sorted(numbered, key=itemgetter(0))]
