"""Checks of label maps: size, format and values."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.classes import IGNORED, cityscapes_train_ids
from drn_cli.data.orientation import size_problem

LABEL_ID = range(34)  # label ids of Cityscapes; the license plate has -1, which PNG cannot store
TRAIN_IDS = 19
SHOWN = 3  # values in a message
TOO_FEW = "at least 2 classes are required"
ADD_BACKGROUND = "add a background class for all other pixels"
ADD_FOLDER = "add another class folder"


def color_finding(path: Path, mode: str, *, gray: bool = False) -> CheckFinding:
    """Return the finding for a label that is a color image.

    Args:
        path: The label.
        mode: Pillow mode.
        gray: Whether its color channels are equal, each with the class ids.
    """
    if gray:
        message = f"stores its values in {mode}, a label map has one class id per pixel"
        hint = "its channels are equal: save one of them as a gray PNG"
    else:
        message = f"is a color image ({mode}), a label map has one class id per pixel"
        hint = "convert its colors to class ids first"
    return CheckFinding("error", "colour-label", message, path, hint)


def size_finding(
    label: Path, label_size: tuple[int, int], image: Path, image_size: tuple[int, int]
) -> CheckFinding:
    """Return the finding for a label whose size `(width, height)` differs from its image's."""
    message, hint = size_problem(label_size, image, image_size)
    return CheckFinding("error", "size", message, label, hint)


def class_count_findings(
    names: Sequence[str], pixels: Sequence[int], labels: Path
) -> list[CheckFinding]:
    """Find too few classes, and classes without training pixels.

    Args:
        names: Class names.
        pixels: Training pixels of each class; empty without training labels.
        labels: The list of the training labels.
    """
    if len(names) < 2:
        found = "has 1 class" if names else "has no classes"
        return [too_few_classes(found, labels.with_name("info.json"))]
    absent = [number for number, count in enumerate(pixels) if not count]
    if pixels and len(pixels) - len(absent) < 2:
        only = next((name for name, count in zip(names, pixels, strict=True) if count), "void")
        return [too_few_classes(f"the training labels contain only {only}", labels)]
    return [
        CheckFinding(
            "warning",
            "unlabelled-class",
            f"no training pixel of {names[number]} ({number}): it cannot be learned",
            labels,
        )
        for number in absent
    ]


def too_few_classes(what: str, file: Path, hint: str = ADD_BACKGROUND) -> CheckFinding:
    return CheckFinding("error", "class-count", f"{what}; {TOO_FEW}", file, hint)


def lossy_findings(labels: Iterable[Path]) -> list[CheckFinding]:
    """Warn of labels that are JPEG files, which do not preserve class ids."""
    message = "is a JPEG file, which does not preserve values"
    return [
        CheckFinding("warning", "lossy-label", message, path, "save label maps as PNG files")
        for path in labels
        if path.suffix.lower() in {".jpg", ".jpeg"}
    ]


def value_findings(
    labels: Sequence[tuple[Path, Mapping[int, int]]], classes: int | None
) -> list[CheckFinding]:
    """Find label maps with invalid values, or with 255 only.

    Args:
        labels: The label maps of a split, with the number of pixels of each value.
        classes: Number of classes; if it is unknown, 0 to 255 are valid.

    Returns:
        One finding per file, but a single one for label ids instead of train ids, which usually
        concern all files.
    """
    ids = _with_label_ids(labels, classes)
    findings = []
    if ids:
        message = f"{len(ids)} of {len(labels)} labels contain Cityscapes label ids (0 to 33)"
        hint = (
            "train on the 19 train ids: *_labelTrainIds.png or *_gtFine_trainIds.png, "
            "which `drn data prepare cityscapes` writes"
        )
        first, pixels = ids[0]
        outside = _outside(pixels, classes)
        findings.append(CheckFinding("error", "label-ids", message, first, hint, values=outside))
    reported = {path for path, _ in ids}
    for path, pixels in labels:
        outside = _outside(pixels, classes)
        if outside and path not in reported:
            findings.append(_value_finding(path, outside, classes))
        if set(pixels) == {IGNORED}:
            message = f"is {IGNORED} everywhere: no pixels to learn from or to score"
            findings.append(CheckFinding("warning", "void", message, path))
    return findings


def _outside(pixels: Mapping[int, int], classes: int | None) -> dict[int, int]:
    valid = range(256 if classes is None else classes)
    return {value: n for value, n in pixels.items() if value not in valid and value != IGNORED}


def _with_label_ids(
    labels: Sequence[tuple[Path, Mapping[int, int]]], classes: int | None
) -> list[tuple[Path, Mapping[int, int]]]:
    """Return the labels with Cityscapes label ids, if they are most and have ids without train id.

    A map that happens to contain only ids below 19 cannot be distinguished.
    """
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


def _value_finding(path: Path, outside: Mapping[int, int], classes: int | None) -> CheckFinding:
    parts = [f"{value} ({n} px)" for value, n in list(outside.items())[:SHOWN]]
    if len(outside) > SHOWN:
        parts.append(f"{len(outside) - SHOWN} more up to {max(outside)}")
    noun = "value" if len(outside) == 1 else "values"
    limits = "0 to 255" if classes is None else f"0 to {classes - 1}, or {IGNORED} for void"
    hint = None
    if classes is not None and classes in outside:
        hint = f"if {classes} means void, change it to {IGNORED}"
    elif classes is not None:
        hint = "is the number of classes too small, or are these other ids?"
    message = f"has the {noun} {', '.join(parts)}; labels are {limits}"
    return CheckFinding("error", "label-values", message, path, hint, values=dict(outside))
