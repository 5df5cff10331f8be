"""Class sets: names and colors of the classes of a network."""

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
    """Classes in the order of their train ids."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]  # RGB, 0 to 255

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> bytes:
        """Return the colors as a PNG palette of 256 RGB entries; unused entries are black."""
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
    """Return the 11 classes that are evaluated on CamVid."""
    return _class_set(_rows("camvid_classes.csv"))


@cache
def camvid_colours() -> tuple[tuple[str, int, Colour], ...]:
    """Return name, class id (255 for void) and color of the classes in CamVid's color labels.

    These are the 32 classes of the original labels and the 11 evaluated ones, because some copies
    use the colors of the latter. Each color has one id.
    """
    rows = _rows("camvid_colours.csv") + _rows("camvid_classes.csv")
    return tuple(
        (row["name"], int(row["id"]), (int(row["red"]), int(row["green"]), int(row["blue"])))
        for row in rows
    )


@cache
def camvid_split() -> dict[str, str]:
    """Return the split of each of CamVid's 701 images, by the stem of its file name.

    The original release has no split; these are the lists of the SegNet copy, as commonly used.
    """
    return {row["stem"]: row["split"] for row in _rows("camvid_split.csv")}


@cache
def cityscapes() -> ClassSet:
    """Return the 19 classes that are evaluated on Cityscapes."""
    return _class_set(_evaluated_on_cityscapes())


@cache
def cityscapes_categories() -> tuple[str, ...]:
    """Return the category of each of the 19 evaluated classes of Cityscapes."""
    return tuple(row["category"] for row in _evaluated_on_cityscapes())


@cache
def cityscapes_train_ids() -> npt.NDArray[np.uint8]:
    """Return the train id of each Cityscapes label id `(256,)`; 255 if it is not evaluated."""
    table = np.full(256, IGNORED, np.uint8)
    for row in _evaluated_on_cityscapes():
        table[int(row["id"])] = int(row["train_id"])
    return table


def _evaluated_on_cityscapes() -> list[dict[str, str]]:
    rows = [row for row in _rows("cityscapes_labels.csv") if row["ignore_in_eval"] == "false"]
    return sorted(rows, key=lambda row: int(row["train_id"]))


@cache
def cityscapes_label_ids() -> dict[str, int]:
    """Return the label id of each Cityscapes label by name, including labels not evaluated."""
    return {row["name"]: int(row["id"]) for row in _rows("cityscapes_labels.csv")}


@cache
def imagenet() -> dict[str, str]:
    """Return the names of the 1000 classes of ILSVRC2012 by WNID, sorted by WNID.

    The WNIDs are those of timm's `imagenet_synsets.txt`, the names those of torchvision's weights
    in the same order. All but two are WordNet's: `crane bird`, to distinguish it from the machine,
    and `maillot tank suit`.
    """
    return {row["wnid"]: row["name"] for row in _rows("imagenet_classes.csv")}


def generic(count: int) -> ClassSet:
    """Return names and colors for classes of which only the number is known.

    19 classes are those of Cityscapes and 11 those of CamVid, because their checkpoints contain no
    names. Otherwise classes are named by number and get the Pascal VOC palette, which distributes
    the bits of the number over red, green and blue from the highest down. It starts at 1, because
    0 is black.
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
