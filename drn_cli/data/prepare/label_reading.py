"""Scan all labels to find out whether they contain class ids or colors, and which."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drn_cli.data.classes import IGNORED, ClassSet, Colour
from drn_cli.data.images import Pixels, read_header, read_image
from drn_cli.data.parallel import Progress, in_parallel
from drn_cli.data.prepare.class_tables import ClassMapping, map_numbered_classes
from drn_cli.data.prepare.colours import (
    LOSSY,
    LOSSY_NOTE,
    color_name,
    ids_of_colors,
    ids_of_values,
    pack,
    read_values,
    unpack,
)
from drn_cli.data.prepare.common import check_classes_occur
from drn_cli.errors import DrnError, few_of
from drn_cli.files import write_text

KEPT = 300  # most frequent colors of a file that are counted; more than the possible classes
LISTED = 40  # colors in a message


class PixelValue(NamedTuple):
    """Content of a label pixel: its value (None in a color image), and its RGB color."""

    value: int | None
    color: Colour


@dataclass(frozen=True, slots=True)
class LabelScan:
    """Pixel values in all labels of a data set."""

    pixels: Mapping[PixelValue, int]  # number of pixels of each value, over all labels
    lossy: Path | None  # the first label in a lossy format, if there is one
    # The first label that contains each value
    first: Mapping[PixelValue, Path] = field(default_factory=dict)

    def colors(self) -> list[tuple[Colour, int]]:
        """List the colors with their number of pixels, most frequent first."""
        counts: Counter[Colour] = Counter()
        for pixel, count in self.pixels.items():
            counts[pixel.color] += count
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def values(self) -> list[int] | None:
        """List the values in ascending order; None if some labels are color images."""
        values = {pixel.value for pixel in self.pixels}
        return None if None in values else sorted(value for value in values if value is not None)


@dataclass(frozen=True, slots=True)
class LabelEncoding:
    """How the labels of a data set encode classes: by colors, or by values if colors is None."""

    class_set: ClassSet
    colors: Mapping[Colour, int] | None
    values: Mapping[int, int]
    unknown_as_void: bool

    def id_of(self, pixel: PixelValue) -> int | None:
        """Return the class id of a pixel, 255 if it is ignored; None if it is not a class."""
        if self.colors is not None:
            return self.colors.get(pixel.color)
        return None if pixel.value is None else self.values.get(pixel.value)

    def read_ids(self, path: Path) -> Pixels:
        """Read a label as class ids, uint8 `(H, W)`.

        Raises:
            DrnError: A broken file, or an unknown color or value.
        """
        if self.colors is not None:
            return ids_of_colors(path, self.colors, unknown_as_void=self.unknown_as_void)
        return ids_of_values(path, self.values, unknown_as_void=self.unknown_as_void)


def scan_labels(labels: Sequence[Path], progress: Progress | None = None) -> LabelScan:
    """Count the pixel values of all labels on all cores; raises DrnError for a broken file."""
    pixels: Counter[PixelValue] = Counter()
    first: dict[PixelValue, Path] = {}
    for path, counts in zip(labels, in_parallel(_count_values, labels, progress), strict=True):
        pixels.update(counts)
        for pixel in counts:
            first.setdefault(pixel, path)
    lossy = next((path for path in labels if path.suffix.lower() in LOSSY), None)
    return LabelScan(pixels, lossy, first)


def _count_values(path: Path) -> dict[PixelValue, int]:
    values = read_values(path)
    if values is None:
        codes = pack(read_image(path)).astype(np.int64)
    elif read_header(path).mode in {"P", "1"}:  # the displayed color is not the value
        codes = pack(read_image(path)).astype(np.int64) | ((values.astype(np.int64) + 1) << 24)
    else:
        codes = values.astype(np.int64) * 0x1010101 + (1 << 24)  # gray
    # Count runs of equal pixels, which is faster: labels consist of long runs.
    codes = codes.ravel()
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    lengths = np.diff(starts, append=codes.size)
    unique, inverse = np.unique(codes[starts], return_inverse=True)
    counts = np.bincount(inverse, weights=lengths).astype(np.int64)
    most = Counter(dict(zip(unique.tolist(), counts.tolist(), strict=True))).most_common(KEPT)
    return {PixelValue((code >> 24) - 1 if code >> 24 else None, unpack(code & 0xFFFFFF)): count
            for code, count in most}  # fmt: skip


def choose_encoding(
    scan: LabelScan, classes: ClassMapping | None, ignored: Sequence[int], unknown_as_void: bool
) -> LabelEncoding:
    """Decide how labels encode classes.

    Args:
        scan: The pixel values in the labels.
        classes: The classes of the class file, if there is one.
        ignored: Label values to ignore besides 255.
        unknown_as_void: Ignore colors and values that are not classes.

    Raises:
        DrnError: Colors without a class file, values that cannot be class ids, class ids in a
            lossy format, or labels of fewer than two classes.
    """
    encoding = _choose(scan, classes, ignored, unknown_as_void)
    pixels = [0] * len(encoding.class_set)
    unknown: Counter[PixelValue] = Counter()
    for pixel, count in scan.pixels.items():
        class_id = encoding.id_of(pixel)
        if class_id is None:
            unknown[pixel] += count
        elif class_id != IGNORED:
            pixels[class_id] += count
    if unknown and not unknown_as_void:
        raise _unknown(scan, unknown, colors=encoding.colors is not None)
    check_classes_occur(
        encoding.class_set.names,
        pixels,
        "add a background class to the class file; 255 is never a class",
    )
    return encoding


def _choose(
    scan: LabelScan, classes: ClassMapping | None, ignored: Sequence[int], unknown_as_void: bool
) -> LabelEncoding:
    values = scan.values()
    if classes is not None and classes.colors and _are_colors(scan, classes):
        if ignored:
            raise DrnError(
                f"--ignore {ignored[0]}: the labels contain colors, not values",
                "use the name of a class in the class file",
            )
        return LabelEncoding(classes.class_set, classes.colors, {}, unknown_as_void)
    if values is None:
        total = sum(scan.pixels.values())
        listed = [f"{color_name(c)} ({count / total:.1%})" for c, count in scan.colors()]
        raise DrnError(
            f"the labels contain colors without class names: {few_of(listed, LISTED)}"
            f"{LOSSY_NOTE if scan.lossy else ''}",
            "name them in a CSV file with the header name,r,g,b for --classes FILE "
            "(--write-classes FILE creates a template)",
        )
    if scan.lossy:
        raise DrnError(
            f"{scan.lossy}: class ids in a JPEG file, whose compression changes them",
            "use labels saved as PNG",
        )
    if classes is None:
        classes = map_numbered_classes([value for value in values if value != IGNORED], ignored)
    return LabelEncoding(classes.class_set, None, classes.values, unknown_as_void)


def _are_colors(scan: LabelScan, classes: ClassMapping) -> bool:
    """Return whether to read labels by the colors of the class file instead of by value.

    True for color images. If the class file has no ids, also true for other images if all their
    colors are classes, or if most are and a palette displays them: the colors were then saved
    as a palette image.
    """
    if scan.values() is None:
        return True
    if classes.has_values:
        return False
    known = sum(count for pixel, count in scan.pixels.items() if pixel.color in classes.colors)
    total = sum(scan.pixels.values())
    if known == total:
        return True
    same = all(
        classes.colors.get(pixel.color) == classes.values.get(pixel.value or 0)
        for pixel in scan.pixels
        if pixel.value != IGNORED
    )
    palette = any(len({pixel.value, *pixel.color}) > 1 for pixel in scan.pixels)
    return palette and not same and known * 2 > total


def _unknown(scan: LabelScan, unknown: Counter[PixelValue], *, colors: bool) -> DrnError:
    """Return the error that lists unknown colors or values, most frequent first."""
    most = unknown.most_common()
    listed = [f"{color_name(p.color) if colors else p.value} ({n:,} px)" for p, n in most]
    kind = "color" if colors else "value"
    one = len(unknown) == 1
    path = scan.first.get(most[0][0])
    problem = f"{path}: {kind} {listed[0]} is not a class"
    if not one:
        problem = (
            f"the labels contain {len(unknown)} {kind}s that are not classes: "
            f"{few_of(listed, LISTED)}; for example in {path}"
        )
    return DrnError(
        f"{problem}{LOSSY_NOTE if scan.lossy else ''}",
        f"add {'a row' if one else 'rows'} to the class file (void to ignore), or use "
        "--unknown-as-void to ignore all such pixels",
    )


def write_class_file(path: Path, scan: LabelScan) -> int:
    """Write a class file template with the values or colors of labels and placeholder names.

    Returns:
        The number of rows.

    Raises:
        DrnError: The file exists, or there are more colors than possible classes.
    """
    if path.exists():
        raise DrnError(f"{path}: already exists", "remove it or choose another name")
    values = scan.values()
    if values is not None:
        # In a mask of two values, such as 0 and 255, both are classes.
        void = IGNORED if len(values) > 2 else None
        rows = [f"{'void' if value == void else f'class {value}'},{value}" for value in values]
        header = "name,id"
    else:
        colors = [color_name(color) for color, _ in scan.colors()]
        rows = [f"class {number},{color}" for number, color in enumerate(colors)]
        header = "name,r,g,b"
    if len(rows) > IGNORED + 1:
        raise DrnError(
            f"the labels contain {len(rows)} colors, more than the {IGNORED + 1} possible classes",
            "use the original labels: smoothed edges and JPEG compression add colors",
        )
    write_text(path, "\n".join([header, *rows]) + "\n")
    return len(rows)
