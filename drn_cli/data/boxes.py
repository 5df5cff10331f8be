"""Ground truth bounding boxes in the usual file formats.

ImageNet's XML files, Kaggle's `LOC_val_solution.csv`, the `val_boxes.csv` that `drn data prepare
imagenet` writes, and tiny-imagenet's `val_annotations.txt` and `*_boxes.txt`. As in all of these,
a box includes its corner pixels.
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
    """A bounding box in pixels from the upper left corner of the image, inclusive."""

    name: str  # of the class folder
    xmin: float
    ymin: float
    xmax: float
    ymax: float


Truth = Mapping[str, Sequence[Box]]  # boxes of each image, by the stem of its file name


def read_boxes(path: Path) -> Truth:
    """Read the boxes of a file, or of all files of the first format found below a folder.

    Raises:
        DrnError: There are none, a file cannot be read, or a box is invalid.
    """
    boxes: defaultdict[str, list[Box]] = defaultdict(list)
    for file in _files(path):
        for name, box in _read(file):
            boxes[PurePosixPath(name).stem].append(box)
    if not boxes:
        raise DrnError(f"{path}: contains no boxes")
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
        f"{path}: contains no files with boxes",
        f"*.xml, LOC_val_solution.csv, val_boxes.csv, {TINY_VAL} or *{TINY_TRAIN}",
    )


def _read(path: Path) -> Iterator[tuple[str, Box]]:
    """Yield image name and box for each box of a file."""
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
            f"{path}:1: header is neither image,class,{','.join(CORNERS)} nor that of "
            "LOC_val_solution.csv"
        )
    for row in rows:
        where = f"{path}:{rows.line_num}"
        if len(row) != len(header):
            raise DrnError(f"{where}: {len(row)} columns, expected {len(header)}")
        yield csv_text(row[0]), _box(csv_text(row[1]), row[2:], where)


def _tiny(lines: Iterable[str], path: Path) -> Iterator[tuple[str, Box]]:
    """Read lines `NAME [CLASS] xmin ymin xmax ymax`; the class may be in the file name instead."""
    for number, line in enumerate(lines, start=1):
        words, where = line.split(), f"{path}:{number}"
        if not words:
            continue
        if len(words) == 6:
            yield words[0], _box(words[1], words[2:], where)
        elif len(words) == 5 and path.name.endswith(TINY_TRAIN):
            yield words[0], _box(path.name.removesuffix(TINY_TRAIN), words[1:], where)
        else:
            raise DrnError(f"{where}: `{line[:60]}` is not an image name and its box")


def _box(name: str, corners: Sequence[str], where: str) -> Box:
    try:
        xmin, ymin, xmax, ymax = map(float, corners)
        if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
            raise ValueError
    except ValueError as error:
        raise DrnError(f"{where}: `{' '.join(corners)}` is not four numbers") from error
    if xmax < xmin or ymax < ymin:
        raise DrnError(f"{where}: the box {' '.join(corners)} has max below min")
    return Box(name, xmin, ymin, xmax, ymax)
