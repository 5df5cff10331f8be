"""Sizes on the command line: always WIDTHxHEIGHT, as people say 1920x1080."""

import re

import typer

METAVAR = "WxH"


def parse_size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT into width and height, in pixels.

    Raises:
        typer.BadParameter: It is not that, or a side is 0.
    """
    found = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text)
    if found is None or int(found[1]) == 0 or int(found[2]) == 0:
        raise typer.BadParameter(
            f"{text!r}: should be WxH, width and height in pixels, as 1920x1080"
        )
    return int(found[1]), int(found[2])
