"""Read the ground truth boxes of the validation images from Kaggle's CSV or XML files."""

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from drn_cli.data.prepare.imagenet.images import is_wnid
from drn_cli.data.prepare.imagenet.sources import VAL_IMAGES, ImageNetSources
from drn_cli.data.prepare.imagenet.tar import read_members
from drn_cli.errors import DrnError
from drn_cli.files import read_bytes, read_text, write_csv

CORNERS = ("xmin", "ymin", "xmax", "ymax")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
LARGEST = 10**6  # bytes of an XML file; those of ImageNet have 500 to 20,000
HEADER = ["ImageId", "PredictionString"]


@dataclass(frozen=True, slots=True)
class Box:
    """A bounding box, with the coordinates as text to copy them unchanged."""

    wnid: str  # class of the object
    corners: tuple[str, ...]  # xmin, ymin, xmax, ymax in pixels


Boxes = Mapping[str, list[Box]]  # boxes of each image, by its name without suffix


def read_boxes(sources: ImageNetSources) -> Boxes | None:
    """Read the boxes of the validation set; None if the source has none.

    Raises:
        DrnError: A file is broken, or a box is invalid.
    """
    if sources.solution is not None:
        return read_solution(sources.solution)
    if sources.boxes is None:
        return None
    files: Iterable[tuple[str, bytes]]
    if sources.boxes.is_file():
        files = read_members(sources.boxes, lambda name: name.endswith(".xml"))
    else:
        files = ((path.name, read_bytes(path, LARGEST)) for path in box_files(sources))
    return {
        PurePosixPath(name).stem: parse_xml(data, f"{sources.boxes}: {name}")
        for name, data in files
    }


def box_files(sources: ImageNetSources) -> list[Path]:
    """List the files that `read_boxes` reads."""
    if sources.solution is not None:
        return [sources.solution]
    if sources.boxes is None or sources.boxes.is_file():
        return [sources.boxes] if sources.boxes else []
    return sorted(sources.boxes.glob(f"{VAL_IMAGES}*.xml"))


def parse_xml(data: bytes, where: str) -> list[Box]:
    """Parse the boxes of an annotation file of ImageNet; raises DrnError if it is invalid."""
    if len(data) > LARGEST:
        raise DrnError(f"{where}: larger than {LARGEST // 1000} KB, too large for annotations")
    try:
        parser = ElementTree.XMLParser(target=_WithoutEntities(where))
        root = ElementTree.fromstring(data, parser)
    except ElementTree.ParseError as error:
        raise DrnError(f"{where}: not valid XML: {error}") from error
    return [
        _box(
            [found.findtext("name", ""), *(found.findtext(f"bndbox/{c}", "") for c in CORNERS)],
            where,
        )
        for found in root.iter("object")
    ]


class _WithoutEntities(ElementTree.TreeBuilder):
    """Refuses a document type declaration: the entities in it can expand without limit."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DrnError(f"{self.where}: refused: contains a document type declaration", "remove it")


def _box(words: list[str], where: str) -> Box:
    wnid, *corners = (word.strip() for word in words)
    if is_wnid(wnid) and len(corners) == 4 and all(map(NUMBER.fullmatch, corners)):
        return Box(wnid, tuple(corners))
    raise DrnError(f"{where}: expected a WNID and four numbers, got `{' '.join(words)[:60]}`")


def read_solution(path: Path) -> dict[str, list[Box]]:
    """Read `LOC_val_solution.csv`: the boxes of each image, at least one, with its class.

    Raises:
        DrnError: The file is missing or broken, or has two rows for an image.
    """
    boxes: dict[str, list[Box]] = {}
    rows = csv.reader(read_text(path).splitlines())
    try:
        if next(rows, None) != HEADER:
            raise DrnError(f"{path}:1: expected the header {','.join(HEADER)}")
        for row in rows:
            where = f"{path}:{rows.line_num}"
            if len(row) != 2 or not row[1].strip():
                problem = f"expected an image and its boxes, got `{','.join(row)[:60]}`"
                raise DrnError(f"{where}: {problem}")
            name, words = row[0], row[1].split()
            if name in boxes:
                raise DrnError(f"{where}: duplicate entry for {name}")
            boxes[name] = [_box(words[n : n + 5], where) for n in range(0, len(words), 5)]
    except csv.Error as error:
        raise DrnError(f"{path}: cannot be read: {error}") from error
    return boxes


def write_boxes(path: Path, boxes: Boxes, images: Mapping[str, str]) -> int:
    """Write boxes as CSV, one per line, and return their number.

    Args:
        path: The file to write.
        boxes: The boxes of `read_boxes`.
        images: Path of each image in the data folder, by its name without suffix. Boxes of other
            images are left out.

    Raises:
        DrnError: The file cannot be written.
    """
    rows = [
        (images[name], box.wnid, *box.corners)
        for name in sorted(boxes.keys() & images.keys())
        for box in boxes[name]
    ]
    write_csv(path, ("image", "wnid", *CORNERS), rows)
    return len(rows)
