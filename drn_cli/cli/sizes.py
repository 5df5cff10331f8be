"""Image sizes on the command line: WIDTHxHEIGHT, such as 1920x1080."""

import re

import typer

METAVAR = "WxH"


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height in pixels.

    Raises:
        typer.BadParameter: Another format, or a side of 0.
    """
    found = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text)
    if found is None or int(found[1]) == 0 or int(found[2]) == 0:
        raise typer.BadParameter(
            f"{text!r}: should be WxH, width and height in pixels, such as 1920x1080"
        )
    return int(found[1]), int(found[2])
