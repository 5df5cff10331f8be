"""Class sets: the names and colours of what a network tells apart."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

IGNORED = 255  # label value of pixels that neither train nor count

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ClassSet:
    """Classes in the order of their train ids.

    Attributes:
        names: One name a class.
        colours: One RGB colour a class, 0 to 255.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> bytes:
        """Lay the colours out as a PNG palette of 256 entries; all others, 255 too, are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colours
        return table.tobytes()


def _rows(table: str) -> list[dict[str, str]]:
    text = (files("drn_cli.data") / "tables" / table).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _class_set(rows: list[dict[str, str]]) -> ClassSet:
    return ClassSet(
        tuple(row["name"] for row in rows),
        tuple((int(row["red"]), int(row["green"]), int(row["blue"])) for row in rows),
    )


@cache
def camvid() -> ClassSet:
    """Give the 11 classes that are evaluated on CamVid."""
    return _class_set(_rows("camvid_classes.csv"))


@cache
def camvid_colours() -> tuple[tuple[str, int, Colour], ...]:
    """Give name, class id (255 for void) and colour of all that CamVid's colour labels show.

    These are the 32 classes of the original labels and the 11 that are evaluated: some copies
    were painted with the colours of the latter. No colour stands for two ids.
    """
    rows = _rows("camvid_colours.csv") + _rows("camvid_classes.csv")
    return tuple(
        (row["name"], int(row["id"]), (int(row["red"]), int(row["green"]), int(row["blue"])))
        for row in rows
    )


@cache
def camvid_split() -> dict[str, str]:
    """Give the split of each of CamVid's 701 images, by its file name without ending.

    The original release has no split; everybody uses the lists of the SegNet copy.
    """
    return {row["stem"]: row["split"] for row in _rows("camvid_split.csv")}


@cache
def cityscapes() -> ClassSet:
    """Give the 19 classes that are evaluated on Cityscapes."""
    rows = [row for row in _rows("cityscapes_labels.csv") if row["ignore_in_eval"] == "false"]
    return _class_set(sorted(rows, key=lambda row: int(row["train_id"])))


@cache
def cityscapes_categories() -> tuple[str, ...]:
    """Give the category of each of the classes of Cityscapes."""
    rows = [row for row in _rows("cityscapes_labels.csv") if row["ignore_in_eval"] == "false"]
    return tuple(row["category"] for row in sorted(rows, key=lambda row: int(row["train_id"])))


@cache
def cityscapes_train_ids() -> npt.NDArray[np.uint8]:
    """Map each of 256 Cityscapes label ids to its train id; what is not evaluated is 255."""
    table = np.full(256, IGNORED, np.uint8)
    for row in _rows("cityscapes_labels.csv"):
        if row["ignore_in_eval"] == "false":
            table[int(row["id"])] = int(row["train_id"])
    return table


@cache
def cityscapes_label_ids() -> dict[str, int]:
    """Return the label id of each name, those of labels that are not evaluated too."""
    return {row["name"]: int(row["id"]) for row in _rows("cityscapes_labels.csv")}


@cache
def imagenet() -> dict[str, str]:
    """Give what people call each of the 1000 classes of ILSVRC2012, by WNID, in sorted order.

    The WNIDs of our table are those of the list in timm (`imagenet_synsets.txt`), the names those
    of torchvision's weights in the same order. WordNet's own words agree with all but two: `crane
    bird`, to tell it from the machine, and `maillot tank suit`.
    """
    return {row["wnid"]: row["name"] for row in _rows("imagenet_classes.csv")}


def generic(count: int) -> ClassSet:
    """Name and colour classes of which only the number is known.

    19 classes are taken for those of Cityscapes and 11 for those of CamVid, because checkpoints of
    these two carry no names. All others get numbers for names and the Pascal VOC palette, which
    deals out the bits of a number to red, green and blue from the highest down. Its number 0 is
    black, so it starts at 1.
    """
    for known in (cityscapes(), camvid()):
        if count == len(known):
            return known
    colours = []
    for number in range(1, count + 1):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= ((number >> bit) & 1) << (7 - bit // 3)
        colours.append((channels[0], channels[1], channels[2]))
    return ClassSet(tuple(f"class {number}" for number in range(count)), tuple(colours))
