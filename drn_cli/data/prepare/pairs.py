"""Make a data folder from a folder of images and a folder of labels."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from drn_cli.data.classes import IGNORED
from drn_cli.data.file_search import ENDINGS, NO_PARTNER, LeftOut, search
from drn_cli.data.images import read_image
from drn_cli.data.parallel import Progress
from drn_cli.data.prepare.class_files import read_class_file
from drn_cli.data.prepare.class_tables import map_named_classes, parse_ignored
from drn_cli.data.prepare.colours import pack, read_values
from drn_cli.data.prepare.common import (
    SPLITS,
    PrepareResult,
    fingerprint,
    locked_folder,
    new_folder,
    up_to_date,
)
from drn_cli.data.prepare.given_split import RANDOM_HINT, find_split
from drn_cli.data.prepare.label_reading import choose_encoding, scan_labels
from drn_cli.data.prepare.matching import PairingResult, match_names
from drn_cli.data.prepare.placing import PrepareTask, write_lists_and_info, write_pairs
from drn_cli.data.prepare.splits import SplitRatios, split
from drn_cli.errors import DrnError, few_of
from drn_cli.files import require_folder

IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "jpegimages", "photos", "rgb"})
LABEL_FOLDERS = frozenset(
    {"annotation", "annotations", "gt", "label", "labels", "mask", "masks", "segmentationclass"}
)

SAMPLE = 3  # files that are read to find out whether images and labels are swapped
MAX_LABEL_VALUES = 64  # a photograph in gray has more

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PairedFolders:
    """The folders of images and labels, their pairs, and the files left out."""

    images: Path
    labels: Path
    pairing: PairingResult
    left_out: LeftOut

    def label_files(self) -> list[Path]:
        return [self.labels / pair.label for pair in self.pairing.pairs]


def match_folders(
    images: Path,
    labels: Path,
    *,
    image_suffix: str | None = None,
    label_suffix: str | None = None,
    skip_unmatched: bool = False,
) -> PairedFolders:
    """Find the images and labels in two folders, and pair them by name.

    Args:
        images: Folder of the images.
        labels: Folder of the labels. One folder may contain the other. If both are the same,
            labels are recognized by their suffix, or by folders named `images` and `labels`
            (or a similar name).
        image_suffix: Suffix of the image stems; None detects it.
        label_suffix: Suffix of the label stems; None detects it.
        skip_unmatched: Leave out images without a label and labels without an image.

    Raises:
        DrnError: A folder is missing or empty, names are ambiguous, or a file has no partner.
    """
    left_out = LeftOut()
    found_images = _search(images, labels, left_out)
    same = images.resolve() == labels.resolve()
    found_labels = found_images if same else _search(labels, images, left_out)
    # From names for pairing (without IMAGE_FOLDERS and LABEL_FOLDERS) to full names.
    image_names = {name: name for name in found_images}
    label_names = {name: name for name in found_labels}
    if same and label_suffix:
        image_names = {n: n for n in found_images if not Path(n).stem.endswith(label_suffix)}
    elif same:
        image_names = _without_folder(found_images, IMAGE_FOLDERS)
        label_names = _without_folder(found_images, LABEL_FOLDERS)
        if not image_names or not label_names:
            raise DrnError(
                f"{images}: contains both images and labels",
                "use --label-suffix _mask, or move them to folders named images and labels",
            )
        for name in sorted(set(found_images) - {*image_names.values(), *label_names.values()}):
            left_out.add(NO_PARTNER, name)
    for folder, found in ((images, image_names), (labels, label_names)):
        if not found:
            others = f"; {left_out}" if left_out else ""
            raise DrnError(f"{folder}: contains no images ({', '.join(ENDINGS)}){others}")
    pairing = match_names([*image_names], [*label_names], image_suffix, label_suffix)
    pairing = replace(
        pairing,
        pairs=[
            replace(pair, image=image_names[pair.image], label=label_names[pair.label])
            for pair in pairing.pairs
        ],
        without_label=[image_names[name] for name in pairing.without_label],
        without_image=[label_names[name] for name in pairing.without_image],
    )
    unmatched = [
        f"{what}: {len(names)} ({few_of(names, 3)})"
        for what, names in (
            ("images without a label", pairing.without_label),
            ("labels without an image", pairing.without_image),
        )
        if names
    ]
    if unmatched and not skip_unmatched:
        problem = f"{pairing}; {'; '.join(unmatched)}"
        raise DrnError(problem, "use --skip-unmatched to leave these out")
    for name in (*pairing.without_label, *pairing.without_image):
        left_out.add(NO_PARTNER, name)
    left_out.log(images if images == labels else f"{images}, {labels}")
    return PairedFolders(images, labels, pairing, left_out)


def _search(folder: Path, other: Path, left_out: LeftOut) -> list[str]:
    """List the images in a folder, recursively but without those of the other folder.

    Raises:
        DrnError: The folder is missing, or a name cannot be an entry of a list file.
    """
    require_folder(folder, "images")
    names = [name for _, name in search(folder, left_out, [other])]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            problem = f"{folder / ascii(name)}: file name is not valid UTF-8"
            raise DrnError(problem, "rename it") from error
        if len(name.splitlines()) != 1:
            problem = f"{folder / ascii(name)}: file name contains a line break"
            raise DrnError(problem, "rename it")
    return names


def _without_folder(names: Sequence[str], folders: frozenset[str]) -> dict[str, str]:
    """Map names to full names, with path components in `folders` removed; skip other names."""
    found: dict[str, str] = {}
    for name in names:
        *above, last = name.split("/")
        rest = [folder for folder in above if folder.casefold() not in folders]
        if len(rest) < len(above):
            other = found.setdefault("/".join([*rest, last]), name)
            if other != name:
                raise DrnError(
                    f"{name}: has the same name as {other} without its image or label folder",
                    "pass the two folders as --images and --labels",
                )
    return found


def prepare_pairs(
    folders: PairedFolders,
    out: Path,
    progress: Progress | None = None,
    *,
    classes: Path | None = None,
    ignore: Sequence[str] = (),
    unknown_as_void: bool = False,
    ratios: SplitRatios | None = None,
    keep_split: bool = True,
) -> PrepareResult:
    """Make a data folder from images and labels on all cores.

    The sources are only read. A folder made from the same files with the same options is left
    unchanged; on failure no folder is created.

    Args:
        folders: Result of `match_folders`.
        out: The data folder to make.
        progress: Called with the number of files done and their total. Each label counts twice,
            because all labels are scanned first.
        classes: A class file; without one, labels must contain class ids.
        ignore: Class names and label values to ignore besides void and 255.
        unknown_as_void: Ignore colors and values that are not classes.
        ratios: Fractions of a random split; None uses the defaults of `SplitRatios`.
        keep_split: Use the split of the source if it has one; `ratios` must then be None.

    Raises:
        DrnError: A broken file, colors or values that are not classes, a label whose size
            differs from its image's, too few images to split, a source split without training
            images, `ratios` with a source split, or an `out` with other contents.
    """
    for folder in (folders.images, folders.labels):  # a second run would find its own images
        if folder.resolve() in [out.resolve(), *out.resolve().parents]:
            raise DrnError(
                f"{out}: is inside the source folder {folder}", "choose another folder with --out"
            )
    pairs = folders.pairing.pairs
    source_split = find_split(folders.images, folders.labels, pairs) if keep_split else None
    if source_split and ratios:
        raise DrnError(
            f"--val, --test, --group, --seed: the source already has a split ({source_split})",
            f"omit these options to keep it, or {RANDOM_HINT}",
        )
    if source_split and "train" not in source_split.splits:
        raise DrnError(
            f"split of the source: contains no training images ({source_split})", RANDOM_HINT
        )
    if source_split:
        log.info("using the split of the source, %s (%s)", source_split, RANDOM_HINT)
        if "val" not in source_split.splits:
            log.warning(
                "the split of the source has no validation images, which training needs (%s)",
                RANDOM_HINT,
            )
    ratios = ratios or SplitRatios()
    rows = read_class_file(classes) if classes else []
    names, values = parse_ignored(ignore, rows)
    mapping = map_named_classes(rows, names, values) if rows else None
    if source_split:
        chosen = [(p, part) for p, part in zip(pairs, source_split.splits, strict=True) if part]
        pairs, parts = [pair for pair, _ in chosen], [part for _, part in chosen]
    else:
        parts = split([pair.stem for pair in pairs], ratios)
    tasks = [
        PrepareTask(
            part,
            folders.images / pair.image,
            folders.labels / pair.label,
            f"images/{pair.image}",
            f"labels/{Path(pair.image).with_suffix('.png').as_posix()}",
        )
        for part, pair in zip(parts, pairs, strict=True)
    ]
    counts = {part: parts.count(part) for part in SPLITS}
    label_files = [folders.labels / pair.label for pair in pairs]
    sources = [
        fingerprint(folders.images, [task.source_image for task in tasks]),
        fingerprint(folders.labels, label_files),
        *(f"{row.name} {row.color} {row.value}" for row in rows),
        f"{sorted(ignore)} {unknown_as_void} {parts if source_split else asdict(ratios)}",
        *(f"{pair.image} {pair.label}" for pair in pairs),
    ]
    made_from = hashlib.sha256(json.dumps(sources).encode()).hexdigest()
    with locked_folder(out):
        if up_to_date(out, made_from):
            return PrepareResult(out, counts, unchanged=True)
        scan = scan_labels(label_files, _half(progress, 0))
        try:
            encoding = choose_encoding(scan, mapping, values, unknown_as_void)
        except DrnError as error:
            images = [folders.images / pair.image for pair in pairs[:SAMPLE]]
            if not _are_swapped(images, label_files[:SAMPLE]):
                raise
            raise DrnError(
                f"{folders.labels}: contains photographs, and {folders.images} label maps",
                "swap --images and --labels",
            ) from error
        with new_folder(out) as folder:
            stats = write_pairs(folder, tasks, encoding.read_ids, _half(progress, len(tasks)))
            write_lists_and_info(
                folder,
                tasks,
                stats,
                encoding.class_set,
                dataset="pairs",
                made_from=made_from,
                split=source_split.to_json()
                if source_split
                else {"kind": "random", **asdict(ratios)},
            )
        return PrepareResult(out, counts, unchanged=False)


def _are_swapped(images: Sequence[Path], labels: Sequence[Path]) -> bool:
    """Whether all images have a channel of few values, and all labels more colors than classes."""
    if any(len(np.unique(pack(read_image(path)))) <= IGNORED + 1 for path in labels):
        return False
    found = [read_values(path) for path in images]
    return all(ids is not None and len(np.unique(ids)) <= MAX_LABEL_VALUES for ids in found)


def _half(progress: Progress | None, before: int) -> Progress | None:
    """Report the progress of one of two passes over all files as half of the total."""
    return None if progress is None else lambda done, total: progress(before + done, 2 * total)
