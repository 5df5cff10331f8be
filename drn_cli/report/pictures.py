"""Pictures for a gallery: what is shown of a segmented or a classified one, as small files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.images import Pixels
from drn_cli.evaluation.confusion import PictureScores, confusion
from drn_cli.inference.classifier import Classifier, best_first
from drn_cli.report.small_pictures import (
    error_map,
    error_png,
    jpeg,
    label_png,
    small,
    small_label,
)

GUESSES = 3  # classes that are named for a picture
CENTRE = 4  # of ten crops
NO_PICTURE = 128  # grey, where only the maps are known


@dataclass(frozen=True, slots=True)
class SegmentedPicture:
    """A picture with its label and prediction, as files.

    Attributes:
        name: Path below the data folder.
        size: Width and height of the files, in pixels.
        picture: JPEG.
        label: PNG in the classes' colours, transparent where it is void.
        prediction: PNG in the classes' colours.
        error: PNG to be laid over the picture.
        label_classes: The largest classes of the label, with their share of the valid pixels.
        predicted_classes: The same of the prediction, as shares of all pixels.
        miou: Mean IoU over its classes; None if no pixel is valid.
        right: Share of the valid pixels that is right; None likewise.
    """

    name: str
    size: tuple[int, int]
    picture: bytes
    label: bytes
    prediction: bytes
    error: bytes
    label_classes: tuple[tuple[str, float], ...]
    predicted_classes: tuple[tuple[str, float], ...]
    miou: float | None
    right: float | None


@dataclass(frozen=True, slots=True)
class ClassifiedPicture:
    """A picture with its class and what it was taken for.

    Attributes:
        name: Path below the data folder.
        size: Width and height of the file, in pixels.
        picture: JPEG of the part that the network sees.
        truth: Name of its class.
        guesses: The likeliest classes and their probabilities.
        is_right: Whether the likeliest is the true one.
    """

    name: str
    size: tuple[int, int]
    picture: bytes
    truth: str
    guesses: tuple[tuple[str, float], ...]
    is_right: bool


@dataclass(frozen=True, slots=True)
class LocalizedPicture:
    """A picture with true boxes and the one that was found.

    Attributes:
        name: Path below the data folder.
        size: Width and height of the files, in pixels.
        picture: JPEG.
        heat: JPEG of the same with the likeliest class's activation laid over it.
        whole: Width and height of the picture itself, which boxes are in.
        true: Class and xmin, ymin, xmax, ymax of the true boxes.
        found: Corners of the box that was found, if there is one.
        guess: The likeliest class and its probability.
        iou: Overlap of the box that was found with the best true one of its class.
        is_right: Whether that is enough.
    """

    name: str
    size: tuple[int, int]
    picture: bytes
    heat: bytes
    whole: tuple[int, int]
    true: tuple[tuple[str, tuple[float, ...]], ...]
    found: tuple[float, ...] | None
    guess: tuple[str, float]
    iou: float
    is_right: bool


def segmented_picture(
    name: str, image: Pixels | None, label: Pixels, prediction: Pixels, class_set: ClassSet
) -> SegmentedPicture:
    """Show a picture, its label and its prediction.

    Args:
        name: What it is called.
        image: The picture `(H, W, 3)`; None if there are but the maps.
        label: Its label map, `(H, W)`.
        prediction: Its predicted map, `(H, W)`.
        class_set: Names and colours of the classes.
    """
    if image is None:
        image = np.full((*label.shape, 3), NO_PICTURE, np.uint8)
    predicted, labels = (
        torch.from_numpy(np.require(values, requirements=["C", "W"]))
        for values in (prediction, label)
    )
    matrix = confusion(predicted, labels, len(class_set)).numpy()
    scores = PictureScores.of(matrix, 0, name, name)
    shown, shown_label, shown_prediction = small(image), small_label(label), small_label(prediction)
    return SegmentedPicture(
        name,
        (shown.shape[1], shown.shape[0]),
        jpeg(shown),
        label_png(shown_label, class_set),
        label_png(shown_prediction, class_set),
        error_png(error_map(shown_label, shown_prediction)),
        _largest(label[label != IGNORED], class_set.names),
        _largest(prediction, class_set.names),
        scores.miou,
        scores.pixel_accuracy,
    )


def _largest(classes: Pixels, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    counts = np.bincount(classes.ravel(), minlength=len(names))[: len(names)]
    order = np.argsort(-counts, kind="stable")[:GUESSES]
    return tuple((names[k], float(counts[k] / classes.size)) for k in order if counts[k])


def classified_picture(
    name: str, image: Pixels, truth: int, classifier: Classifier
) -> ClassifiedPicture:
    """Show what a classifier sees of a picture, and what it takes it for.

    Args:
        name: What it is called.
        image: The picture, `(H, W, 3)`.
        truth: Its class.
        classifier: The network.
    """
    crops = classifier.crops(image)
    batch = torch.from_numpy(crops)[None].to(classifier.device)
    scores = classifier.log_probabilities(batch).cpu()
    numbers = best_first(scores)[0, :GUESSES].tolist()
    shares = scores[0, numbers].exp().tolist()
    guesses = ((classifier.names[k], share) for k, share in zip(numbers, shares, strict=True))
    shown = small(crops[CENTRE if len(crops) > 1 else 0])
    return ClassifiedPicture(
        name,
        (shown.shape[1], shown.shape[0]),
        jpeg(shown),
        classifier.names[truth],
        tuple(guesses),
        numbers[0] == truth,
    )


def name_below(path: Path, root: Path) -> str:
    """Name a file from a folder, if it is below it."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
