"""What `predict` and `localize` share: images in, one result each, also of several processes."""

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
        help="Refuse larger images, by their headers; by default above 160000000 pixels.",
    ),
]


def read_input(item: "Numbered") -> "Pixels":
    """Read an image, from stdin if that is meant; raises DrnError as `read_image`."""
    from drn_cli.data.images import read_image

    path = item[1].path
    return read_image(sys.stdin.buffer if path == "-" else Path(path), frames="first")


def name_of(image: "InputImage") -> str:
    """Return what messages call an image."""
    return "stdin" if image.path == "-" else image.path


def results_of(
    results: "Iterable[tuple[Numbered, Result | DrnError]]",
    total: int,
    failed: list[tuple[int, dict[str, Any]]],
    *,
    shown: bool,
) -> "Iterator[tuple[int, InputImage, Result]]":
    """Show progress and give each image's result; report those that failed.

    Args:
        results: As `stream` gives them.
        total: How many there will be.
        failed: Gets the number of each image without a result, with its entry for JSON.
        shown: Whether this process shows the progress.
    """
    from drn_cli.inference.score_maps import NonFiniteScoresError

    with console.bar(total, shown=shown) as bar:
        for (number, image), result in results:
            if isinstance(result, DrnError):
                nameless = isinstance(result, NonFiniteScoresError)
                error = NonFiniteScoresError(name_of(image)) if nameless else result
                console.fail(error)
                failed.append((number, {"image": image.path, "error": error.message}))
            else:
                yield number, image, result
            bar.update()


def in_order(parts: Iterable[Iterable[tuple[int, Result]]]) -> list[Result]:
    """Put together what processes have of their images, in the images' order."""
    numbered = (one for part in parts for one in part)
    return [entry for _, entry in sorted(numbered, key=itemgetter(0))]
