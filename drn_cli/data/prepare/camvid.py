"""CamVid, in whichever layout people have it, made into a data folder.

Labels hold 0 to 10 for the classes and 11 for void, as the SegNet copy has them, or the colours of
CamVid's 32 original classes, which become the 11 that are evaluated. Void becomes 255.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from drn_cli.data.classes import IGNORED, Colour, camvid, camvid_colours
from drn_cli.data.images import Pixels, has_single_channel, read_image
from drn_cli.data.parallel import Progress, in_parallel
from drn_cli.data.prepare.camvid_layouts import Pair, find_layout
from drn_cli.data.prepare.class_files import read_class_file
from drn_cli.data.prepare.colours import (
    ids_of_colours,
    ids_of_values,
    pack,
    pixel_mode,
    unpack,
)
from drn_cli.data.prepare.common import (
    PrepareResult,
    check_occurring,
    claimed,
    fingerprint,
    new_folder,
    up_to_date,
)
from drn_cli.data.prepare.placing import (
    SPLITS,
    Seen,
    WrittenPair,
    make_folders,
    place_pair,
    write_lists_and_info,
)
from drn_cli.errors import DrnError

log = logging.getLogger(__name__)

VALUES = {**{number: number for number in range(11)}, 11: IGNORED, IGNORED: IGNORED}
VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore")


@dataclass(frozen=True, slots=True)
class Job:
    """A pair, and where it goes."""

    pair: Pair
    placed: WrittenPair


@dataclass(frozen=True, slots=True)
class Reading:
    """How labels are read: the id of each colour, and whether unknown ones are ignored."""

    colours: Mapping[Colour, int]
    unknown_as_void: bool


def prepare_camvid(
    source: Path,
    out: Path,
    progress: Progress | None = None,
    *,
    unknown_as_void: bool = False,
) -> PrepareResult:
    """Make a data folder from CamVid, with all cores.

    The source is only read. A folder that was made from the same files is left as it is; a
    failure leaves nothing behind.

    Args:
        source: Folder of CamVid; `camvid_layouts` tells the layouts. Test labels may be missing.
        out: The data folder to make.
        progress: Called with images done and images in all.
        unknown_as_void: Whether colours and values that stand for no class are ignored.

    Raises:
        DrnError: Another layout, a missing or broken file, a colour or value of no class, a label
            of another size than its image, or `out` holds something else.
    """
    layout = find_layout(source)
    reading = Reading(_colours(layout.colours), unknown_as_void)
    log.info("%s: %s", source, layout.name)
    pairs = layout.pairs
    counts = {split: sum(pair.split == split for pair in pairs) for split in SPLITS}
    deciding = [*layout.lists, *([layout.colours] if layout.colours else [])]
    files = [source / path for pair in pairs for path in (pair.image, pair.label) if path]
    made_from = fingerprint(source, [*deciding, *files])
    if unknown_as_void:
        made_from += " unknown-as-void"
    with claimed(out):
        if up_to_date(out, made_from):
            return PrepareResult(out, counts, unchanged=True)
        placed = [_place(pair) for pair in pairs]
        with new_folder(out) as folder:
            make_folders(folder, placed)
            jobs = [Job(pair, to) for pair, to in zip(pairs, placed, strict=True)]
            seen = list(in_parallel(partial(_convert, source, folder, reading), jobs, progress))
            check_occurring(
                camvid().names,
                np.sum([part.pixels for part in seen], axis=0)[: len(camvid())].tolist(),
                "choose the folder of CamVid; labels of your own: drn data prepare pairs",
            )
            about = {"dataset": "camvid", "made_from": made_from}
            write_lists_and_info(folder, placed, seen, camvid(), **about)
        return PrepareResult(out, counts, unchanged=False)


def _place(pair: Pair) -> WrittenPair:
    """Name a pair in the data folder as the SegNet copy does."""
    image = PurePosixPath(pair.image)
    label = f"{pair.split}annot/{image.stem}.png" if pair.label else None
    return WrittenPair(pair.split, f"{pair.split}/{image.name}", label)


def _colours(path: Path | None) -> dict[Colour, int]:
    """Give the id of each colour that is known, with those of a class file before all others."""
    known = {colour: number for _, number, colour in camvid_colours()}
    if path is None:
        return known
    numbers = {_plain(name): number for name, number, _ in camvid_colours()}
    numbers |= dict.fromkeys(VOID_NAMES, IGNORED)
    for row in read_class_file(path):
        if row.colour is None:
            raise DrnError(f"{row.where}: {row.name} has no colour", f"or remove {path}")
        if _plain(row.name) not in numbers:
            raise DrnError(
                f"{row.where}: {row.name} is no class of CamVid",
                "call it as the original or the 11 evaluated classes are called, or Void",
            )
        known[row.colour] = numbers[_plain(row.name)]
    return known


def _plain(name: str) -> str:
    """Reduce a name to its letters, so that `Sign Symbol` and `SignSymbol` are the same."""
    return re.sub(r"[\W_]", "", name.lower())


def _convert(source: Path, folder: Path, reading: Reading, job: Job) -> Seen:
    """Place an image, write its label as class ids, and sum both up."""
    label = source / job.pair.label if job.pair.label else None
    ids = _ids(label, reading) if label else None
    return place_pair(folder, job.placed, source / job.pair.image, label, ids)


def _ids(path: Path, reading: Reading) -> Pixels:
    mode = pixel_mode(path)
    if has_single_channel(mode) and not (mode == "P" and _shows_classes(path, reading.colours)):
        return ids_of_values(path, VALUES, unknown_as_void=reading.unknown_as_void)
    return ids_of_colours(path, reading.colours, unknown_as_void=reading.unknown_as_void)


def _shows_classes(path: Path, colours: Mapping[Colour, int]) -> bool:
    """Tell whether a palette image is one of colours: it shows those of classes alone."""
    codes = np.unique(pack(read_image(path)))
    return all(unpack(int(code)) in colours for code in codes)
