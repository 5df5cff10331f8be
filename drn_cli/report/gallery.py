"""Validation pictures as a run's best network sees them, predicted when the page is made."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from drn_cli.data.batches import normalise
from drn_cli.data.class_folders import ClassFolder, ClassSample
from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import ListFolder, Sample, Statistics
from drn_cli.data.images import Pixels, read_image
from drn_cli.data.resized_crop import centre_crop
from drn_cli.data.showing.samples import Choice
from drn_cli.errors import DrnError
from drn_cli.inference.loading import load_predictor
from drn_cli.inference.predictor import Predictor
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import read_checkpoint
from drn_cli.networks.conversion import convert
from drn_cli.networks.models import DRN
from drn_cli.networks.weights import load_converted
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Recipe
from drn_cli.report.small_pictures import (
    error_map,
    error_png,
    jpeg,
    label_png,
    small,
    small_label,
)
from drn_cli.runs import Run

Step = Callable[[int, int], None]  # pictures done, of all

GUESSES = 3  # classes that are named for a classified picture


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
        right: Share of the valid pixels that is right; None if none is valid.
    """

    name: str
    size: tuple[int, int]
    picture: bytes
    label: bytes
    prediction: bytes
    error: bytes
    label_classes: tuple[tuple[str, float], ...]
    predicted_classes: tuple[tuple[str, float], ...]
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
class Gallery:
    """Some validation pictures.

    Attributes:
        total: How many the validation has.
        class_set: Names and colours; none for classification.
        pictures: Those that are shown, of one kind.
    """

    total: int
    class_set: ClassSet | None
    pictures: Sequence[SegmentedPicture] | Sequence[ClassifiedPicture]


def make_gallery(
    run: Run, count: int, data: Path | None = None, step: Step = lambda done, total: None
) -> Gallery:
    """Predict `count` pictures of the validation, evenly spaced.

    Args:
        run: With a best network and a recipe.
        count: How many, at most.
        data: Data folder, if it is not the recipe's.
        step: Called after each picture.

    Raises:
        DrnError: There is no best network yet, or the pictures are not there or do not fit.
    """
    if not run.best.is_file():
        raise DrnError(f"{run.best}: not there yet", "the first validation writes it")
    recipe = load_recipe(str(run.recipe)).recipe
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    make = _segmentation if recipe.task == "segmentation" else _classification
    try:
        return make(run, recipe, count, data, device, step)
    except torch.OutOfMemoryError as error:
        raise DrnError(f"{device}: its memory is too small or in use") from error


def _segmentation(
    run: Run, recipe: Recipe, count: int, data: Path | None, device: torch.device, step: Step
) -> Gallery:
    if data is None:
        folder = ListFolder.open(recipe.data.root, recipe.data.lists)
    else:
        folder = ListFolder.open(data)
    samples = folder.samples("val")
    predictor = load_predictor(run.best, device, data=folder, view=recipe.eval)
    chosen = [samples[n] for n in Choice(count).of(len(samples))]
    pictures = []
    for done, sample in enumerate(chosen, start=1):
        pictures.append(_segmented(sample, folder.root, predictor))
        step(done, len(chosen))
    return Gallery(len(samples), predictor.class_set, pictures)


def _segmented(sample: Sample, root: Path, predictor: Predictor) -> SegmentedPicture:
    image, label = read_pair(sample, predictor.classes)
    prediction = predictor(image).cpu().numpy()
    valid = label != IGNORED
    names = predictor.class_set.names
    right = float((label == prediction)[valid].mean()) if valid.any() else None
    shown, shown_label, shown_prediction = small(image), small_label(label), small_label(prediction)
    return SegmentedPicture(
        _name(sample.image, root),
        (shown.shape[1], shown.shape[0]),
        jpeg(shown),
        label_png(shown_label, predictor.class_set),
        label_png(shown_prediction, predictor.class_set),
        error_png(error_map(shown_label, shown_prediction)),
        _largest(label[valid], names),
        _largest(prediction, names),
        right,
    )


def _largest(classes: Pixels, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    counts = np.bincount(classes.ravel(), minlength=len(names))
    order = np.argsort(-counts, kind="stable")[:GUESSES]
    return tuple((names[k], float(counts[k] / classes.size)) for k in order if counts[k])


def _classification(
    run: Run, recipe: Recipe, count: int, data: Path | None, device: torch.device, step: Step
) -> Gallery:
    folder = ClassFolder.open(recipe.data.root if data is None else data)
    samples = folder.samples("val")
    model, statistics = _classifier(run.best, folder)
    model.to(device).eval()
    chosen = [samples[n] for n in Choice(count).of(len(samples))]
    pictures = []
    for done, sample in enumerate(chosen, start=1):
        crop = centre_crop(read_image(sample.image), recipe.augment.crop, recipe.eval.resize)
        with torch.inference_mode():
            batch = torch.from_numpy(crop[None]).to(device)
            probabilities = model(normalise(batch, statistics)).float().softmax(1)[0].cpu()
        pictures.append(_classified(sample, folder, crop, probabilities))
        step(done, len(chosen))
    return Gallery(len(samples), None, pictures)


def _classifier(path: Path, folder: ClassFolder) -> tuple[DRN, Statistics]:
    """Read a classifier with the statistics that it was trained with."""
    checkpoint = read_checkpoint(path)
    found = convert(checkpoint, path)
    if found.classes != len(folder.names):
        raise DrnError(f"{folder.root}: has {len(folder.names)} classes, {path} {found.classes}")
    model = create_model(found.archs[0], "classification", found.classes)
    load_converted(model, found, path)
    told = checkpoint.metadata
    if "mean" not in told or "std" not in told:
        return model, folder.statistics()
    mean, std = json.loads(told["mean"]), json.loads(told["std"])
    return model, Statistics(tuple(mean), tuple(std))


def _classified(
    sample: ClassSample, folder: ClassFolder, crop: Pixels, probabilities: torch.Tensor
) -> ClassifiedPicture:
    values, classes = probabilities.topk(min(GUESSES, len(folder.names)))
    numbers = classes.tolist()
    guesses = ((folder.names[k], p) for k, p in zip(numbers, values.tolist(), strict=True))
    shown = small(crop)
    return ClassifiedPicture(
        _name(sample.image, folder.root),
        (shown.shape[1], shown.shape[0]),
        jpeg(shown),
        folder.names[sample.target],
        tuple(guesses),
        numbers[0] == sample.target,
    )


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
