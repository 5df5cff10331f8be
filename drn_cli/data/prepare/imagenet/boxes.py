"""The true boxes of the validation images, from Kaggle's CSV or from XML files."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from drn_cli.data.prepare.imagenet.images import is_wnid
from drn_cli.data.prepare.imagenet.sources import VAL_IMAGES, Sources
from drn_cli.data.prepare.imagenet.tar import read_small
from drn_cli.errors import DrnError
from drn_cli.files import read_bytes, read_text, write_csv

CORNERS = ("xmin", "ymin", "xmax", "ymax")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
LARGEST = 10**6  # bytes of an XML file; those of ImageNet have 500 to 20,000
HEADER = ["ImageId", "PredictionString"]


@dataclass(frozen=True, slots=True)
class Box:
    """A box around an object, in pixels, as the source writes it.

    Attributes:
        wnid: Class of the object.
        corners: xmin, ymin, xmax, ymax.
    """

    wnid: str
    corners: tuple[str, ...]


Boxes = Mapping[str, list[Box]]  # of each image, by its name without suffix


def read_boxes(sources: Sources) -> Boxes | None:
    """Read the boxes of the validation set from where they are; None if they are nowhere.

    Raises:
        DrnError: A file is broken, or a box is none.
    """
    if sources.solution is not None:
        return read_solution(sources.solution)
    if sources.boxes is None:
        return None
    return {
        PurePosixPath(name).stem: parse_xml(data, f"{sources.boxes}: {name}")
        for name, data in _xml_files(sources.boxes)
    }


def box_files(sources: Sources) -> list[Path]:
    """Give the files that `read_boxes` reads."""
    if sources.solution is not None:
        return [sources.solution]
    if sources.boxes is None or sources.boxes.is_file():
        return [sources.boxes] if sources.boxes else []
    return sorted(sources.boxes.glob(f"{VAL_IMAGES}*.xml"))


def _xml_files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_file():
        yield from read_small(path, lambda name: name.endswith(".xml"))
        return
    for file in sorted(path.glob(f"{VAL_IMAGES}*.xml")):
        yield file.name, read_bytes(file, LARGEST)


def parse_xml(data: bytes, where: str) -> list[Box]:
    """Read the boxes of an annotation file, as ImageNet has them; raises DrnError if it is none."""
    if len(data) > LARGEST:
        raise DrnError(f"{where}: is larger than {LARGEST // 1000} KB, no file of boxes is")
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
    """Refuses a document type, in which alone entities are declared: they can grow without end."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DrnError(f"{self.where}: has a document type, no file of boxes has", "remove it")


def _box(words: list[str], where: str) -> Box:
    wnid, *corners = (word.strip() for word in words)
    if is_wnid(wnid) and len(corners) == 4 and all(map(NUMBER.fullmatch, corners)):
        return Box(wnid, tuple(corners))
    raise DrnError(f"{where}: should be a WNID and four numbers, is `{' '.join(words)[:60]}`")


def read_solution(path: Path) -> dict[str, list[Box]]:
    """Read `LOC_val_solution.csv`: of each image, its boxes, which tell its class as well.

    Raises:
        DrnError: The file is missing or broken, or names an image twice.
    """
    boxes: dict[str, list[Box]] = {}
    rows = csv.reader(read_text(path).splitlines())
    try:
        if next(rows, None) != HEADER:
            raise DrnError(f"{path}:1: should be the header {','.join(HEADER)}")
        for row in rows:
            where = f"{path}:{rows.line_num}"
            name, words = _solution_row(row, where)
            if name in boxes:
                raise DrnError(f"{where}: names {name} a second time")
            boxes[name] = [_box(words[n : n + 5], where) for n in range(0, len(words), 5)]
    except csv.Error as error:
        raise DrnError(f"{path}: cannot be read: {error}") from error
    return boxes


def _solution_row(row: list[str], where: str) -> tuple[str, list[str]]:
    if len(row) != 2 or not row[1].strip():
        raise DrnError(f"{where}: should be an image and its boxes, is `{','.join(row)[:60]}`")
    return row[0], row[1].split()


def write_boxes(path: Path, boxes: Boxes, images: Mapping[str, str]) -> int:
    """Write boxes as CSV, one a line, and give their number.

    Args:
        path: The file to write.
        boxes: What was read.
        images: Path below the data folder of each image that is there, by its name without
            suffix. Boxes of others are left out.

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
