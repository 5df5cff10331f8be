"""The true boxes around objects of images, in whichever of the usual formats they are.

ImageNet's XML files, Kaggle's `LOC_val_solution.csv`, the `val_boxes.csv` that `drn data prepare
imagenet` writes, and tiny-imagenet's `val_annotations.txt` and `*_boxes.txt`. A box holds its
corner pixels, as in all of these.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drn_cli.data.prepare.imagenet.boxes import CORNERS, HEADER, LARGEST, parse_xml, read_solution
from drn_cli.errors import DrnError
from drn_cli.files import csv_text, read_bytes, read_text

TINY_VAL, TINY_TRAIN = "val_annotations.txt", "_boxes.txt"


@dataclass(frozen=True, slots=True)
class Box:
    """A box around an object, in pixels from the upper left corner, corner pixels included.

    Attributes:
        name: Of its class: what the class's folder is called.
        xmin, ymin, xmax, ymax: Its corners.
    """

    name: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float


Truth = Mapping[str, Sequence[Box]]  # of each image, by its file's name without ending


def read_boxes(path: Path) -> Truth:
    """Read all boxes of a file, or of all files of one of the formats below a folder.

    Raises:
        DrnError: There are none, a file cannot be read, or a box is none.
    """
    boxes: defaultdict[str, list[Box]] = defaultdict(list)
    for file in _files(path):
        for name, box in _read(file):
            boxes[PurePosixPath(name).stem].append(box)
    if not boxes:
        raise DrnError(f"{path}: holds no boxes")
    return boxes


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DrnError(f"{path}: no such file or folder")
    for pattern in ("*.xml", TINY_VAL, f"*{TINY_TRAIN}", "LOC_val_solution.csv", "val_boxes.csv"):
        if found := sorted(path.rglob(pattern)):
            return found
    raise DrnError(
        f"{path}: has no boxes",
        f"*.xml, LOC_val_solution.csv, val_boxes.csv, {TINY_VAL} and *{TINY_TRAIN} are known",
    )


def _read(path: Path) -> Iterator[tuple[str, Box]]:
    """Give the boxes of a file, each with the name of its image."""
    if path.suffix.lower() == ".xml":
        for box in parse_xml(read_bytes(path, LARGEST), str(path)):
            yield path.stem, _box(box.wnid, box.corners, str(path))
        return
    lines = read_text(path).splitlines()
    if path.suffix.lower() != ".csv":
        yield from _tiny(lines, path)
    elif next(csv.reader(lines[:1]), []) == HEADER:
        for name, found in read_solution(path).items():
            for box in found:
                yield name, _box(box.wnid, box.corners, f"{path}: {name}")
    else:
        yield from _table(lines, path)


def _table(lines: Sequence[str], path: Path) -> Iterator[tuple[str, Box]]:
    rows = csv.reader(lines)
    header = next(rows, [])
    if len(header) != 6 or tuple(header[2:]) != CORNERS:
        raise DrnError(
            f"{path}:1: should be the header image,class,{','.join(CORNERS)}, or that of "
            "LOC_val_solution.csv"
        )
    for row in rows:
        where = f"{path}:{rows.line_num}"
        if len(row) != len(header):
            raise DrnError(f"{where}: has {len(row)} columns, not {len(header)}")
        yield csv_text(row[0]), _box(csv_text(row[1]), row[2:], where)


def _tiny(lines: Iterable[str], path: Path) -> Iterator[tuple[str, Box]]:
    """Read `NAME [CLASS] xmin ymin xmax ymax`; without a class, the file is called after it."""
    for number, line in enumerate(lines, start=1):
        words, where = line.split(), f"{path}:{number}"
        if not words:
            continue
        if len(words) == 6:
            yield words[0], _box(words[1], words[2:], where)
        elif len(words) == 5 and path.name.endswith(TINY_TRAIN):
            yield words[0], _box(path.name.removesuffix(TINY_TRAIN), words[1:], where)
        else:
            raise DrnError(f"{where}: `{line[:60]}` is not an image and its box")


def _box(name: str, corners: Sequence[str], where: str) -> Box:
    try:
        xmin, ymin, xmax, ymax = map(float, corners)
        if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
            raise ValueError
    except ValueError as error:
        raise DrnError(f"{where}: `{' '.join(corners)}` are no four numbers") from error
    if xmax < xmin or ymax < ymin:
        raise DrnError(f"{where}: the box {' '.join(corners)} has its corners in the wrong order")
    return Box(name, xmin, ymin, xmax, ymax)
