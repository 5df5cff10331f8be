"""What is wrong with a label map: its size, its kind, its values."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.classes import IGNORED, cityscapes_train_ids
from drn_cli.data.orientation import find_orientation_mismatch, size_problem

LABEL_ID = range(34)  # of Cityscapes; the license plate's is -1, which no PNG holds
TRAIN_IDS = 19
SHOWN = 3  # values in a message
TOO_FEW = "with fewer than 2 classes there is nothing to tell apart"
ADD_BACKGROUND = "make what is none of the objects a class of its own, background"
ADD_FOLDER = "add the class folder of something else"


def colour_finding(path: Path, mode: str, *, grey: bool = False) -> CheckFinding:
    """Tell of a label that is a colour image.

    Args:
        path: The label.
        mode: What Pillow calls its kind of pixels.
        grey: Whether its colour channels are equal: then they hold the ids, three times.
    """
    if grey:
        message = f"holds its values in {mode}, a label map has one class id a pixel"
        hint = "its channels are equal: write one of them as a grey PNG"
    else:
        message = f"is a colour image ({mode}), a label map has one class id a pixel"
        hint = "convert its colours to class ids first"
    return CheckFinding("error", "colour-label", message, path, hint)


def size_finding(
    label: Path, label_size: tuple[int, int], image: Path, image_size: tuple[int, int]
) -> CheckFinding:
    """Tell of a label of another size, `(width, height)`, than its image."""
    message, hint = size_problem(label_size, image, image_size)
    return CheckFinding("error", "size", message, label, hint)


def orientation_finding(image: Path, label: Path) -> CheckFinding | None:
    """Warn of an image that EXIF turns without a change of size, and a label without the tag."""
    turned = find_orientation_mismatch(image, label)
    return CheckFinding("warning", "orientation", turned, image) if turned else None


def class_count_findings(
    names: Sequence[str], pixels: Sequence[int], labels: Path
) -> list[CheckFinding]:
    """Find what leaves nothing to tell apart, and the classes that cannot be learned.

    Args:
        names: Of the classes.
        pixels: Training pixels of each class; empty if there are no training labels.
        labels: The list of the training labels.
    """
    if len(names) < 2:
        found = "names 1 class" if names else "names no class"
        return [too_few_classes(found, labels.with_name("info.json"))]
    absent = [number for number, count in enumerate(pixels) if not count]
    if pixels and len(pixels) - len(absent) < 2:
        shown = next((name for name, count in zip(names, pixels, strict=True) if count), "void")
        return [too_few_classes(f"the training labels show {shown} alone", labels)]
    return [
        CheckFinding(
            "warning",
            "unlabelled-class",
            f"no training pixel is {names[number]} ({number}): it cannot be learned",
            labels,
        )
        for number in absent
    ]


def too_few_classes(what: str, file: Path, hint: str = ADD_BACKGROUND) -> CheckFinding:
    """Refuse what leaves nothing to tell apart."""
    return CheckFinding("error", "class-count", f"{what}; {TOO_FEW}", file, hint)


def lossy_findings(labels: Iterable[Path]) -> list[CheckFinding]:
    """Warn of labels that are JPEGs: class ids do not survive that."""
    message = "is a JPEG, which does not keep values as they were"
    return [
        CheckFinding("warning", "lossy-label", message, path, "make label maps PNGs")
        for path in labels
        if path.suffix.lower() in {".jpg", ".jpeg"}
    ]


def value_findings(
    labels: Sequence[tuple[Path, Mapping[int, int]]], classes: int | None
) -> list[CheckFinding]:
    """Find the label maps whose values are no classes, or nothing but 255.

    Args:
        labels: The label maps of a split, with the pixels of each value.
        classes: How many there are; where nobody knows, 0 to 255 are all taken for classes.

    Returns:
        One finding a file, but for label ids in place of train ids: these are seldom in one file
        only, and one finding for all of them says more.
    """
    ids = _with_label_ids(labels, classes)
    findings = []
    if ids:
        message = f"{len(ids)} of {len(labels)} labels hold Cityscapes label ids (0 to 33)"
        hint = (
            "train on the 19 train ids: *_labelTrainIds.png or *_gtFine_trainIds.png, "
            "which `drn data prepare cityscapes` writes"
        )
        first, pixels = ids[0]
        outside = _outside(pixels, classes)
        findings.append(CheckFinding("error", "label-ids", message, first, hint, values=outside))
    told = {path for path, _ in ids}
    for path, pixels in labels:
        outside = _outside(pixels, classes)
        if outside and path not in told:
            findings.append(_values(path, outside, classes))
        if set(pixels) == {IGNORED}:
            message = f"is {IGNORED} everywhere: nothing to learn from, nothing to score"
            findings.append(CheckFinding("warning", "void", message, path))
    return findings


def _outside(pixels: Mapping[int, int], classes: int | None) -> dict[int, int]:
    known = range(256 if classes is None else classes)
    return {value: n for value, n in pixels.items() if value not in known and value != IGNORED}


def _with_label_ids(
    labels: Sequence[tuple[Path, Mapping[int, int]]], classes: int | None
) -> list[tuple[Path, Mapping[int, int]]]:
    """Give the labels with Cityscapes label ids, if most are such and show ids of no train id."""
    if classes != TRAIN_IDS:
        return []
    found = [
        (path, pixels)
        for path, pixels in labels
        if _outside(pixels, classes)
        and all(value in LABEL_ID or value == IGNORED for value in pixels)
    ]
    unused = set(LABEL_ID) & set(np.flatnonzero(cityscapes_train_ids() == IGNORED).tolist())
    if 2 * len(found) <= len(labels) or not any(unused & set(pixels) for _, pixels in found):
        return []
    return found


def _values(path: Path, outside: Mapping[int, int], classes: int | None) -> CheckFinding:
    parts = [f"{value} ({n} px)" for value, n in list(outside.items())[:SHOWN]]
    if len(outside) > SHOWN:
        parts.append(f"{len(outside) - SHOWN} more up to {max(outside)}")
    noun = "value" if len(outside) == 1 else "values"
    limits = "0 to 255" if classes is None else f"0 to {classes - 1}, or {IGNORED} for void"
    hint = None
    if classes is not None and classes in outside:
        hint = f"if {classes} means void here, it has to be {IGNORED}"
    elif classes is not None:
        hint = "is the number of classes too small, or are these ids of another kind?"
    message = f"has the {noun} {', '.join(parts)}; labels are {limits}"
    return CheckFinding("error", "label-values", message, path, hint, values=dict(outside))
