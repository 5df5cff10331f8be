"""Whether labels hold class ids or colours, and which ids: found by looking at all of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED, ClassSet, Colour
from drn_cli.data.images import Pixels, read_image
from drn_cli.data.parallel import Progress, in_parallel
from drn_cli.data.prepare.class_tables import Classes, numbered
from drn_cli.data.prepare.colours import (
    LOSSY,
    colour_name,
    ids_of_colours,
    ids_of_values,
    pack,
    pixel_mode,
    read_values,
    unpack,
)
from drn_cli.data.prepare.common import check_occurring
from drn_cli.errors import DrnError, few_of
from drn_cli.files import write_text

KEPT = 300  # of one file's colours, the most frequent: more than there can be classes
LISTED = 40  # colours in a message
LOSSY_NOTE = "; JPEG files change colours a little: better take PNG"


class Shown(NamedTuple):
    """What a pixel holds (None if it is no single value), and the colour that it shows."""

    value: int | None
    colour: Colour


@dataclass(frozen=True, slots=True)
class LabelScan:
    """What labels hold.

    Attributes:
        pixels: How many pixels show what, over all labels.
        lossy: A label in a format that may change colours, if there is one.
        first: A label that shows it.
    """

    pixels: Mapping[Shown, int]
    lossy: Path | None
    first: Mapping[Shown, Path] = field(default_factory=dict)

    def colours(self) -> list[tuple[Colour, int]]:
        """List the colours with their pixels, most frequent first."""
        counts: Counter[Colour] = Counter()
        for shown, count in self.pixels.items():
            counts[shown.colour] += count
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def values(self) -> list[int] | None:
        """List the values in order; None if some labels hold colours."""
        values = {shown.value for shown in self.pixels}
        return None if None in values else sorted(value for value in values if value is not None)


@dataclass(frozen=True, slots=True)
class LabelEncoding:
    """How to read the labels of a data set: the ids of colours, or else of values."""

    class_set: ClassSet
    colours: Mapping[Colour, int] | None
    values: Mapping[int, int]
    unknown_as_void: bool

    def id_of(self, shown: Shown) -> int | None:
        """Return the id of what a pixel shows, 255 if it is ignored; None if it has none."""
        if self.colours is not None:
            return self.colours.get(shown.colour)
        return None if shown.value is None else self.values.get(shown.value)

    def ids(self, path: Path) -> Pixels:
        """Read a label as class ids, uint8 `(H, W)`; raises DrnError as the readers do."""
        if self.colours is not None:
            return ids_of_colours(path, self.colours, unknown_as_void=self.unknown_as_void)
        return ids_of_values(path, self.values, unknown_as_void=self.unknown_as_void)


def look(labels: Sequence[Path], progress: Progress | None = None) -> LabelScan:
    """Look at all labels, with all cores.

    Raises:
        DrnError: A broken file.
    """
    pixels: Counter[Shown] = Counter()
    first: dict[Shown, Path] = {}
    for path, counts in zip(labels, in_parallel(_contents, labels, progress), strict=True):
        pixels.update(counts)
        for shown in counts:
            first.setdefault(shown, path)
    lossy = next((path for path in labels if path.suffix.lower() in LOSSY), None)
    return LabelScan(pixels, lossy, first)


def _contents(path: Path) -> dict[Shown, int]:
    """Count what a label shows, along runs of equal pixels: most of a label are such runs."""
    values = read_values(path)
    if values is None:
        codes = pack(read_image(path)).astype(np.int64)
    elif pixel_mode(path) in {"P", "1"}:  # values that show other colours
        codes = pack(read_image(path)).astype(np.int64) | ((values.astype(np.int64) + 1) << 24)
    else:
        codes = values.astype(np.int64) * 0x1010101 + (1 << 24)  # grey
    counts = _count_runs(codes.ravel()).most_common(KEPT)
    return {Shown((code >> 24) - 1 if code >> 24 else None, unpack(code & 0xFFFFFF)): count
            for code, count in counts}  # fmt: skip


def _count_runs(codes: npt.NDArray[np.int64]) -> Counter[int]:
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    lengths = np.diff(starts, append=codes.size)
    kinds, which = np.unique(codes[starts], return_inverse=True)
    counts = np.bincount(which, weights=lengths).astype(np.int64)
    return Counter(dict(zip(kinds.tolist(), counts.tolist(), strict=True)))


def choose_reading(
    found: LabelScan, classes: Classes | None, ignored: Sequence[int], unknown_as_void: bool
) -> LabelEncoding:
    """Decide how labels are read.

    Args:
        found: What they hold.
        classes: What a class file says; None without one.
        ignored: Label values to ignore besides 255.
        unknown_as_void: Whether what has no class is ignored.

    Raises:
        DrnError: Colours that nothing names, values out of which no classes can be made, values in
            a format that changes them, or labels that show fewer than two classes.
    """
    reading = _choose(found, classes, ignored, unknown_as_void)
    pixels = [0] * len(reading.class_set)
    unknown: Counter[Shown] = Counter()
    for shown, count in found.pixels.items():
        number = reading.id_of(shown)
        if number is None:
            unknown[shown] += count
        elif number != IGNORED:
            pixels[number] += count
    if unknown and not unknown_as_void:
        raise _unknown(found, unknown, colours=reading.colours is not None)
    check_occurring(
        reading.class_set.names,
        pixels,
        "add a background class to the class file; 255 is never a class",
    )
    return reading


def _choose(
    found: LabelScan, classes: Classes | None, ignored: Sequence[int], unknown_as_void: bool
) -> LabelEncoding:
    values = found.values()
    if classes is not None and classes.colours and _are_colours(found, classes):
        if ignored:
            raise DrnError(
                f"--ignore {ignored[0]}: the labels hold colours, so name a class of the class file"
            )
        return LabelEncoding(classes.class_set, classes.colours, {}, unknown_as_void)
    if values is None:
        raise _unnamed(found)
    if found.lossy:
        raise DrnError(
            f"{found.lossy}: holds class ids in a JPEG file, which changes them a little",
            "take labels that were saved as PNG",
        )
    if classes is None:
        classes = numbered([value for value in values if value != IGNORED], ignored)
    return LabelEncoding(classes.class_set, None, classes.values, unknown_as_void)


def _are_colours(found: LabelScan, classes: Classes) -> bool:
    """Tell whether labels are to be read by the colours that a class file gives.

    Colour images are. Others are if all they show are these colours, or a palette shows mostly
    these, as where somebody saved colours with a palette; not if the file gives values.
    """
    if found.values() is None:
        return True
    if classes.has_values:
        return False
    known = sum(count for shown, count in found.pixels.items() if shown.colour in classes.colours)
    total = sum(found.pixels.values())
    if known == total:
        return True
    same = all(
        classes.colours.get(shown.colour) == classes.values.get(shown.value or 0)
        for shown in found.pixels
        if shown.value != IGNORED
    )
    palette = any(len({shown.value, *shown.colour}) > 1 for shown in found.pixels)
    return palette and not same and known * 2 > total


def _unnamed(found: LabelScan) -> DrnError:
    total = sum(found.pixels.values())
    listed = [f"{colour_name(colour)} ({count / total:.1%})" for colour, count in found.colours()]
    return DrnError(
        f"the labels hold colours that nothing names: {few_of(listed, LISTED)}"
        f"{LOSSY_NOTE if found.lossy else ''}",
        "name them in a CSV file with the header name,r,g,b and give it with --classes FILE; "
        "--write-classes FILE begins one",
    )


def _unknown(found: LabelScan, unknown: Counter[Shown], *, colours: bool) -> DrnError:
    """Name the colours or values that are no class, most frequent first."""
    most = unknown.most_common()
    listed = [f"{colour_name(s.colour) if colours else s.value} ({n:,} px)" for s, n in most]
    kind = "colour" if colours else "value"
    one = len(unknown) == 1
    path = found.first.get(most[0][0])
    problem = f"{path}: has the {kind} {listed[0]}, which is no class"
    if not one:
        problem = (
            f"the labels hold {len(unknown)} {kind}s that are no class: {few_of(listed, LISTED)}; "
            f"{path} for instance"
        )
    return DrnError(
        f"{problem}{LOSSY_NOTE if found.lossy else ''}",
        f"give {'it a row' if one else 'them rows'} in the class file (void for what to ignore), "
        "or ignore all such pixels with --unknown-as-void",
    )


def write_class_file(path: Path, found: LabelScan) -> int:
    """Begin a class file with what labels hold, for a person to put names into.

    Returns:
        How many classes it has.

    Raises:
        DrnError: The file exists, or there are more colours than there can be classes.
    """
    if path.exists():
        raise DrnError(f"{path}: exists already", "remove it or choose another name")
    values = found.values()
    if values is not None:
        # Where 255 is all that there is besides one value, it is no void.
        void = IGNORED if len(values) > 2 else None
        rows = [f"{'void' if value == void else f'class {value}'},{value}" for value in values]
        header = "name,id"
    else:
        colours = [colour_name(colour) for colour, _ in found.colours()]
        rows = [f"class {number},{colour}" for number, colour in enumerate(colours)]
        header = "name,r,g,b"
    if len(rows) > IGNORED + 1:
        raise DrnError(
            f"the labels hold {len(rows)} colours, too many to be classes",
            "labels with smoothed edges, or saved as JPEG, do; take the originals",
        )
    write_text(path, "\n".join([header, *rows]) + "\n")
    return len(rows)
