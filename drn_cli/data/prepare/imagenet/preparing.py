"""ImageNet (ILSVRC2012), made into class folders from its archives or from what was unpacked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.classes import imagenet
from drn_cli.data.file_search import LeftOut
from drn_cli.data.parallel import Progress
from drn_cli.data.prepare.common import claimed, require_two_classes
from drn_cli.data.prepare.imagenet.boxes import read_boxes, write_boxes
from drn_cli.data.prepare.imagenet.names import read_names
from drn_cli.data.prepare.imagenet.parts import Part, extra_parts, split_parts
from drn_cli.data.prepare.imagenet.sources import (
    BOX_ARCHIVE,
    DEVKIT,
    SOLUTION,
    TRAIN_ARCHIVE,
    VAL_ARCHIVE,
    Sources,
    find_sources,
)
from drn_cli.data.prepare.imagenet.state import (
    BOX_TABLE,
    SPLITS,
    State,
    begin,
    classes_of,
    finish,
    read_corrupt,
    read_state,
    val_images,
    with_names,
    write_corrupt,
    write_unfinished,
)
from drn_cli.data.prepare.imagenet.tar import DamagedError
from drn_cli.data.prepare.imagenet.truth import Truth, read_truth, truth_file
from drn_cli.errors import DrnError

CLASSES = 1000
EXPECTED = {"train": 1_281_167, "val": 50_000}
GIVES = {
    "train": TRAIN_ARCHIVE,
    "val": f"{VAL_ARCHIVE} with {DEVKIT} or {SOLUTION}",
    "boxes": f"{BOX_ARCHIVE} or {SOLUTION}",
}
MEGABYTE = 10**6
# Made from an archive that was damaged: what it gave is kept for another copy to complete.
ANY_COPY = "any copy"


@dataclass(frozen=True, slots=True)
class PreparedImageNet:
    """What was made, or found made already.

    Attributes:
        out: The data folder.
        counts: Images in each split.
        classes: Class folders in each split.
        corrupt: What was left out, one line each: split, name and fault, with tabs between them.
        boxes: Number of boxes of validation images, or None if there are none to be had.
        left_out: What lies in the folders of each split and was not taken.
        missing: For `train`, `val` and `boxes`, where they are not there: the files to get.
        unchanged: Whether all was there already, made from the same files.
    """

    out: Path
    counts: Mapping[str, int]
    classes: Mapping[str, int]
    corrupt: tuple[str, ...]
    boxes: int | None
    left_out: Mapping[str, LeftOut]
    missing: Mapping[str, str]
    unchanged: bool


def prepare_imagenet(
    source: Path,
    out: Path,
    *,
    partial_copy: bool = False,
    truth: Path | None = None,
    progress: Progress | None = None,
) -> PreparedImageNet:
    """Make class folders, a class index and a table of boxes from ImageNet.

    The source is only read. What is done stays done: an interrupted run goes on where it was, a
    split that the source has gained is added, and one that it has lost is kept.

    Args:
        source: Folder below which the archives, or the unpacked images, are.
        out: The data folder to make.
        partial_copy: Whether fewer classes or images than the 1000 classes have are fine.
        truth: File with the classes of the validation images, if it is not to be found.
        progress: Called with megabytes done and megabytes in all.

    Raises:
        DrnError: There is nothing, too little or something broken in the source, or `out` holds
            something else.
    """
    _apart(source, out)
    sources = find_sources(source, out, truth)
    with claimed(out):
        state = read_state(out)
        _present(source, sources, state, partial_copy)
        labels: Truth = read_truth(sources) if sources.flat else {}
        parts = dict(split_parts(sources, labels))
        _same_as_before(out, state, parts)
        if not partial_copy:
            _enough_to_begin(source, sources, parts, labels)
        _two_classes(source, out, state, parts)
        extras = extra_parts(sources)
        todo = {split: part for split, part in parts.items() if split not in state.counts}
        stale = any(state.made_from.get(extra) != extras[extra] for extra in extras)
        unchanged = state.finished and not todo and not stale
        if not unchanged:
            _make(out, state, sources, todo, progress)
            state.made_from |= extras
        if not partial_copy:
            for split in state.counts:
                _complete(out, state, split)
        if not unchanged:
            finish(out, state)
        left_out = {split: part.left_out for split, part in parts.items()}
        return _result(out, state, left_out, unchanged)


def _result(
    out: Path, state: State, left_out: Mapping[str, LeftOut], unchanged: bool
) -> PreparedImageNet:
    splits = [split for split in SPLITS if split in state.counts]
    missing = {split: GIVES[split] for split in SPLITS if split not in splits}
    if "val" in splits and state.boxes is None:
        missing["boxes"] = GIVES["boxes"]
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


def _apart(source: Path, out: Path) -> None:
    if source.resolve() == out.resolve() or out.resolve() in source.resolve().parents:
        raise DrnError(
            f"{out}: the data folder cannot be where the source is",
            "choose another folder with --out",
        )


def _present(source: Path, sources: Sources, state: State, partial_copy: bool) -> None:
    """Refuse a source that lacks a split, unless an earlier run has taken it."""
    there = {"train": sources.train, "val": sources.val}
    if not any(there.values()):
        raise DrnError(
            f"{source}: has no images of ImageNet",
            f"it should hold {TRAIN_ARCHIVE} and {VAL_ARCHIVE}, or what was unpacked from them: "
            "train/WNID/*.JPEG, val/WNID/*.JPEG or val/*.JPEG",
        )
    for split, path in there.items():
        if path is None and split not in state.counts and not partial_copy:
            raise DrnError(
                f"{source}: has no {split} images",
                f"get {GIVES[split]}, or say --partial to do without",
            )


def _enough_to_begin(
    source: Path, sources: Sources, parts: Mapping[str, Part], truth: Truth
) -> None:
    """Refuse a source of which it is known beforehand that it is not complete."""
    if sources.flat and len(truth) != EXPECTED["val"]:
        raise DrnError(
            f"{truth_file(sources)}: tells the classes of {len(truth)} images, the "
            f"validation set has {EXPECTED['val']}",
            "say --partial if yours is a part of it",
        )
    for split, part in parts.items():
        if part.images is not None:
            _enough(source, split, part.images)


def _two_classes(source: Path, out: Path, state: State, parts: Mapping[str, Part]) -> None:
    """Refuse images of one class; that there are none at all is found later."""
    classes = {wnid for part in parts.values() for wnid in part.classes}
    classes.update(wnid for split in state.counts for wnid in classes_of(out, split))
    if classes:
        require_two_classes(
            sorted(classes), f"{source}: the images", "add a folder or archive of another class"
        )


def _same_as_before(out: Path, state: State, parts: Mapping[str, Part]) -> None:
    """Refuse to mix a split with another one, or to leave half of one behind."""
    for split in SPLITS:
        before = state.made_from.get(split)
        if before is None:
            continue
        if split in parts and before not in (parts[split].made_from, ANY_COPY):
            raise DrnError(
                f"{out / split}: was made from other files than the source has now",
                "remove it to have it made again, or choose another folder with --out",
            )
        if split not in parts and split not in state.counts:
            raise DrnError(
                f"{out / split}: is unfinished, and the source has no {split} images any more",
                "remove it, or bring the source back",
            )


def _make(
    out: Path,
    state: State,
    sources: Sources,
    todo: Mapping[str, Part],
    progress: Progress | None,
) -> None:
    """Make what is to be made; what can be found wrong early is read first."""
    boxes = read_boxes(sources)
    with_names(state, read_names(sources), imagenet())
    state.made_from |= {split: part.made_from for split, part in todo.items()}
    begin(out, state)
    _take(out, state, todo, progress)
    if boxes is not None and "val" in state.counts:
        state.boxes = write_boxes(out / BOX_TABLE, boxes, val_images(out))


def _take(out: Path, state: State, todo: Mapping[str, Part], progress: Progress | None) -> None:
    """Make the splits, one after the other; each counts as soon as it is complete."""
    total, before = sum(part.size for part in todo.values()), 0
    for split, part in todo.items():

        def advance(done: int, start: int = before) -> None:
            if progress is not None:
                progress((start + done) // MEGABYTE, total // MEGABYTE)

        try:
            taken = part.take(out / split, advance)
        except DamagedError:
            state.made_from[split] = ANY_COPY
            write_unfinished(out, state)
            raise
        write_corrupt(out, split, taken.corrupt)
        if not taken.images:
            worst = f", {taken.corrupt[0].name}: {taken.corrupt[0].fault}" if taken.corrupt else ""
            raise DrnError(f"{out / split}: the source has not one whole image{worst}")
        state.counts[split], state.corrupt[split] = taken.images, len(taken.corrupt)
        write_unfinished(out, state)
        before += part.size


def _complete(out: Path, state: State, split: str) -> None:
    """Refuse to call a split complete that is not."""
    classes = len(classes_of(out, split))
    _enough(out / split, split, state.counts[split] + state.corrupt[split])
    if classes != CLASSES:
        raise DrnError(
            f"{out / split}: has {classes} classes, the {split} set of ImageNet has {CLASSES}",
            f"complete the source ({GIVES[split]}), or say --partial to take it as it is",
        )


def _enough(where: Path, split: str, images: int) -> None:
    if images != EXPECTED[split]:
        raise DrnError(
            f"{where}: has {images} {split} images, ImageNet has {EXPECTED[split]}",
            f"complete the source ({GIVES[split]}), or say --partial to take it as it is",
        )
