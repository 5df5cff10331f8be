"""Make class folders from the archives or unpacked folders of ImageNet (ILSVRC2012)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.classes import imagenet
from drn_cli.data.file_search import LeftOut
from drn_cli.data.parallel import Progress
from drn_cli.data.prepare.common import locked_folder, require_two_classes
from drn_cli.data.prepare.imagenet.boxes import read_boxes, write_boxes
from drn_cli.data.prepare.imagenet.names import read_names
from drn_cli.data.prepare.imagenet.parts import SplitSource, extra_fingerprints, split_sources
from drn_cli.data.prepare.imagenet.sources import (
    BOX_ARCHIVE,
    DEVKIT,
    SOLUTION,
    TRAIN_ARCHIVE,
    VAL_ARCHIVE,
    ImageNetSources,
    find_sources,
)
from drn_cli.data.prepare.imagenet.state import (
    BOX_TABLE,
    SPLITS,
    PrepareState,
    begin,
    classes_of,
    finish,
    read_corrupt,
    read_state,
    val_images,
    write_corrupt,
    write_unfinished,
)
from drn_cli.data.prepare.imagenet.tar import CorruptArchiveError
from drn_cli.data.prepare.imagenet.truth import read_truth, truth_file
from drn_cli.errors import DrnError

CLASSES = 1000
EXPECTED = {"train": 1_281_167, "val": 50_000}
FILES = {  # files from which each part can be made
    "train": TRAIN_ARCHIVE,
    "val": f"{VAL_ARCHIVE} with {DEVKIT} or {SOLUTION}",
    "boxes": f"{BOX_ARCHIVE} or {SOLUTION}",
}
MEGABYTE = 10**6
ANY_COPY = "any copy"  # fingerprint of a damaged archive: another copy may complete the split


@dataclass(frozen=True, slots=True)
class PreparedImageNet:
    """Result of the preparation of ImageNet."""

    out: Path
    counts: Mapping[str, int]  # number of images in each split
    classes: Mapping[str, int]  # number of class folders in each split
    # Lines of corrupt.txt: split, name and error of each file left out, tab-separated
    corrupt: tuple[str, ...]
    boxes: int | None  # number of boxes of validation images; None if the source has no boxes
    left_out: Mapping[str, LeftOut]  # files in the folders of each split that are not its images
    # For each of `train`, `val` and `boxes` that is missing, the files to download
    missing: Mapping[str, str]
    unchanged: bool  # whether the folder was up to date, so that nothing was written


def prepare_imagenet(
    source: Path,
    out: Path,
    *,
    partial_copy: bool = False,
    truth: Path | None = None,
    progress: Progress | None = None,
) -> PreparedImageNet:
    """Make class folders, a class index and a table of boxes from ImageNet.

    The source is only read. An interrupted run is resumed. A split that was added to the source is
    added to the data folder, and one that was removed from the source is kept.

    Args:
        source: Folder with the archives or the unpacked images, also in subfolders.
        out: The data folder to make.
        partial_copy: Allow fewer than 1000 classes and fewer images.
        truth: File with the classes of the validation images; None searches for it.
        progress: Called with the number of megabytes done and their total.

    Raises:
        DrnError: The source is missing, incomplete or broken, or `out` has other contents.
    """
    if source.resolve() == out.resolve() or out.resolve() in source.resolve().parents:
        raise DrnError(
            f"{out}: data folder is or contains the source folder",
            "choose another folder with --out",
        )
    sources = find_sources(source, out, truth)
    with locked_folder(out):
        state = read_state(out)
        _check_available(source, sources, state, partial_copy)
        labels = read_truth(sources) if sources.flat else {}
        splits = split_sources(sources, labels)
        _check_same_sources(out, state, splits)
        if not partial_copy:  # what is known before archives are read
            if sources.flat and len(labels) != EXPECTED["val"]:
                raise DrnError(
                    f"{truth_file(sources)}: has the classes of {len(labels)} images, "
                    f"the validation set has {EXPECTED['val']}",
                    "use --partial for a part of the validation set",
                )
            for split, part in splits.items():
                if part.images is not None:
                    _check_count(source, split, part.images)
        classes = {wnid for part in splits.values() for wnid in part.classes}
        classes.update(wnid for split in state.counts for wnid in classes_of(out, split))
        if classes:  # a source without any class is an error later
            require_two_classes(
                sorted(classes), f"{source}: the images", "add a folder or archive of another class"
            )
        extras = extra_fingerprints(sources)
        todo = {split: part for split, part in splits.items() if split not in state.counts}
        stale = any(state.made_from.get(extra) != extras[extra] for extra in extras)
        unchanged = state.finished and not todo and not stale
        if not unchanged:
            _make(out, state, sources, todo, progress)
            state.made_from |= extras
        if not partial_copy:
            for split in state.counts:
                _check_complete(out, state, split)
        if not unchanged:
            finish(out, state)
        left_out = {split: part.left_out for split, part in splits.items()}
        return _result(out, state, left_out, unchanged)


def _result(
    out: Path, state: PrepareState, left_out: Mapping[str, LeftOut], unchanged: bool
) -> PreparedImageNet:
    splits = [split for split in SPLITS if split in state.counts]
    missing = {split: FILES[split] for split in SPLITS if split not in splits}
    if "val" in splits and state.boxes is None:
        missing["boxes"] = FILES["boxes"]
    return PreparedImageNet(
        out,
        {split: state.counts[split] for split in splits},
        {split: len(classes_of(out, split)) for split in splits},
        tuple(read_corrupt(out)),
        state.boxes,
        left_out,
        missing,
        unchanged,
    )


def _check_available(
    source: Path, sources: ImageNetSources, state: PrepareState, partial_copy: bool
) -> None:
    """Check that the source has all splits that earlier runs have not completed."""
    found = {"train": sources.train, "val": sources.val}
    if not any(found.values()):
        raise DrnError(
            f"{source}: contains no images of ImageNet",
            f"expected {TRAIN_ARCHIVE} and {VAL_ARCHIVE}, or their unpacked images: "
            "train/WNID/*.JPEG, val/WNID/*.JPEG or val/*.JPEG",
        )
    for split, path in found.items():
        if path is None and split not in state.counts and not partial_copy:
            raise DrnError(
                f"{source}: contains no {split} images",
                f"download {FILES[split]}, or use --partial to continue without them",
            )


def _check_same_sources(out: Path, state: PrepareState, splits: Mapping[str, SplitSource]) -> None:
    """Check that no split would be mixed with other images, or stay incomplete."""
    for split in SPLITS:
        before = state.made_from.get(split)
        if before is None:
            continue
        if split in splits and before not in (splits[split].made_from, ANY_COPY):
            raise DrnError(
                f"{out / split}: was made from other source files",
                "remove it, or choose another folder with --out",
            )
        if split not in splits and split not in state.counts:
            raise DrnError(
                f"{out / split}: is incomplete, and the source no longer has {split} images",
                "remove it, or restore the source",
            )


def _make(
    out: Path,
    state: PrepareState,
    sources: ImageNetSources,
    todo: Mapping[str, SplitSource],
    progress: Progress | None,
) -> None:
    """Make the missing splits and the boxes. Small files are read first, to find errors early."""
    boxes = read_boxes(sources)
    state.names = {**imagenet(), **state.names, **read_names(sources)}
    state.made_from |= {split: part.made_from for split, part in todo.items()}
    begin(out, state)
    _write_splits(out, state, todo, progress)
    if boxes is not None and "val" in state.counts:
        state.boxes = write_boxes(out / BOX_TABLE, boxes, val_images(out))


def _write_splits(
    out: Path, state: PrepareState, todo: Mapping[str, SplitSource], progress: Progress | None
) -> None:
    """Write the splits one after the other, and record each when it is complete."""
    total, before = sum(part.size for part in todo.values()), 0
    for split, part in todo.items():

        def advance(done: int, start: int = before) -> None:
            if progress is not None:
                progress((start + done) // MEGABYTE, total // MEGABYTE)

        try:
            result = part.write(out / split, advance)
        except CorruptArchiveError:
            state.made_from[split] = ANY_COPY
            write_unfinished(out, state)
            raise
        write_corrupt(out, split, result.corrupt)
        if not result.images:
            first = (
                f": {result.corrupt[0].name}: {result.corrupt[0].error}" if result.corrupt else ""
            )
            raise DrnError(f"{out / split}: no valid image in the source{first}")
        state.counts[split], state.corrupt[split] = result.images, len(result.corrupt)
        write_unfinished(out, state)
        before += part.size


def _check_complete(out: Path, state: PrepareState, split: str) -> None:
    """Check that a split has all images and classes of ImageNet."""
    classes = len(classes_of(out, split))
    _check_count(out / split, split, state.counts[split] + state.corrupt[split])
    if classes != CLASSES:
        raise DrnError(
            f"{out / split}: has {classes} classes, the {split} set of ImageNet has {CLASSES}",
            f"complete the source ({FILES[split]}), or use --partial for a part of it",
        )


def _check_count(where: Path, split: str, images: int) -> None:
    if images != EXPECTED[split]:
        raise DrnError(
            f"{where}: has {images} {split} images, ImageNet has {EXPECTED[split]}",
            f"complete the source ({FILES[split]}), or use --partial for a part of it",
        )
