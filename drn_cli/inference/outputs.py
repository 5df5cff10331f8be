"""What a prediction is written as."""

from pathlib import Path

from drn_cli.data.classes import ClassSet
from drn_cli.data.images import Pixels, overlay, write_coloured, write_image, write_index

KINDS = ("index", "colour", "overlay")  # folders below the output folder


def write_prediction(
    out: Path, name: Path, image: Pixels, classes: Pixels, class_set: ClassSet
) -> dict[str, Path]:
    """Write index map, coloured map and overlay below `out`, each file whole or not at all.

    Args:
        out: The folder of all predictions.
        name: Path below `out/index`, `out/colour` and `out/overlay`.
        image: The picture, uint8 `(H, W, 3)`.
        classes: Its classes, uint8 `(H, W)`.
        class_set: Names and colours of the classes.

    Returns:
        The three files, under `index`, `colour` and `overlay`.
    """
    files = {kind: out / kind / name for kind in KINDS}
    write_index(files["index"], classes)
    write_coloured(files["colour"], classes, class_set)
    write_image(files["overlay"], overlay(image, classes, class_set))
    return files
