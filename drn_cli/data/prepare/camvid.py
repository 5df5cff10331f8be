"""Make a data folder from CamVid, in any of its usual layouts.

Labels contain class ids 0 to 10 and 11 for void, as in the SegNet copy, or the colors of CamVid's
32 original classes, which are merged into the 11 evaluated ones. Void becomes 255.
"""

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from drn_cli.data.classes import IGNORED, Colour, camvid, camvid_colours
from drn_cli.data.images import Pixels, has_single_channel, read_header, read_image
from drn_cli.data.parallel import Progress
from drn_cli.data.prepare.camvid_layouts import find_layout
from drn_cli.data.prepare.class_files import read_class_file
from drn_cli.data.prepare.colours import ids_of_colors, ids_of_values, pack, unpack
from drn_cli.data.prepare.common import (
    SPLITS,
    PrepareResult,
    check_classes_occur,
    fingerprint,
    locked_folder,
    new_folder,
    up_to_date,
)
from drn_cli.data.prepare.placing import PrepareTask, write_lists_and_info, write_pairs
from drn_cli.errors import DrnError

log = logging.getLogger(__name__)

VALUES = {**{number: number for number in range(11)}, 11: IGNORED, IGNORED: IGNORED}
VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore")


def prepare_camvid(
    source: Path, out: Path, progress: Progress | None = None, *, unknown_as_void: bool = False
) -> PrepareResult:
    """Make a data folder from CamVid on all cores.

    The source is only read. A folder made from the same files is left unchanged; on failure no
    folder is created.

    Args:
        source: Folder of CamVid in one of the layouts of `camvid_layouts`. Test labels may be
            missing.
        out: The data folder to make.
        progress: Called with the number of images done and their total.
        unknown_as_void: Ignore colors and values that are not classes.

    Raises:
        DrnError: An unknown layout, a missing or broken file, a color or value that is not a
            class, a label of another size than its image, or an `out` with other contents.
    """
    layout = find_layout(source)
    colors = _color_ids(layout.colors)
    log.info("%s: %s", source, layout.name)
    pairs = layout.pairs
    counts = {split: sum(pair.split == split for pair in pairs) for split in SPLITS}
    tasks = [
        PrepareTask(  # with the names of the SegNet copy
            pair.split,
            source / pair.image,
            source / pair.label if pair.label else None,
            f"{pair.split}/{PurePosixPath(pair.image).name}",
            f"{pair.split}annot/{PurePosixPath(pair.image).stem}.png" if pair.label else None,
        )
        for pair in pairs
    ]
    listing = [*layout.lists, *([layout.colors] if layout.colors else [])]
    files = [path for task in tasks for path in (task.source_image, task.source_label) if path]
    made_from = fingerprint(source, [*listing, *files])
    if unknown_as_void:
        made_from += " unknown-as-void"
    with locked_folder(out):
        if up_to_date(out, made_from):
            return PrepareResult(out, counts, unchanged=True)
        read_ids = partial(_read_ids, colors=colors, unknown_as_void=unknown_as_void)
        with new_folder(out) as folder:
            stats = write_pairs(folder, tasks, read_ids, progress)
            check_classes_occur(
                camvid().names,
                np.sum([part.pixels for part in stats], axis=0)[: len(camvid())].tolist(),
                "choose the folder of CamVid; for your own labels use drn data prepare pairs",
            )
            about = {"dataset": "camvid", "made_from": made_from}
            write_lists_and_info(folder, tasks, stats, camvid(), **about)
        return PrepareResult(out, counts, unchanged=False)


def _color_ids(path: Path | None) -> dict[Colour, int]:
    """Return the class id of each known color; those of a class file override the others."""
    known = {color: class_id for _, class_id, color in camvid_colours()}
    if path is None:
        return known
    ids = {_letters(name): class_id for name, class_id, _ in camvid_colours()}
    ids |= dict.fromkeys(VOID_NAMES, IGNORED)
    for row in read_class_file(path):
        if row.color is None:
            raise DrnError(f"{row.where}: {row.name} has no color", f"add it, or remove {path}")
        if _letters(row.name) not in ids:
            raise DrnError(
                f"{row.where}: {row.name} is not a class of CamVid",
                "use the name of an original or of an evaluated class, or Void",
            )
        known[row.color] = ids[_letters(row.name)]
    return known


def _letters(name: str) -> str:
    """Normalize a class name: `Sign Symbol` and `SignSymbol` are the same class."""
    return re.sub(r"[\W_]", "", name.lower())


def _read_ids(path: Path, *, colors: Mapping[Colour, int], unknown_as_void: bool) -> Pixels:
    """Read a label as class ids. A palette image has color labels if all its colors are known."""
    mode = read_header(path).mode
    by_value = has_single_channel(mode)
    if mode == "P":
        codes = np.unique(pack(read_image(path)))
        by_value = not all(unpack(int(code)) in colors for code in codes)
    if by_value:
        return ids_of_values(path, VALUES, unknown_as_void=unknown_as_void)
    return ids_of_colors(path, colors, unknown_as_void=unknown_as_void)
