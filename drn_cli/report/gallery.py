"""Validation pictures as a run's best network sees them, predicted when the page is made."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from drn_cli.data.class_folders import ClassFolder
from drn_cli.data.classes import ClassSet
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import ListFolder
from drn_cli.data.images import read_image
from drn_cli.data.showing.samples import Choice
from drn_cli.errors import DrnError
from drn_cli.evaluation.class_index import class_index, renumbered
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Recipe
from drn_cli.report.pictures import (
    ClassifiedPicture,
    LocalizedPicture,
    SegmentedPicture,
    classified_picture,
    name_below,
    segmented_picture,
)
from drn_cli.runs import Run

Picture = TypeVar("Picture")
Step = Callable[[int, int], None]  # pictures done, of all


@dataclass(frozen=True, slots=True)
class Gallery:
    """Some pictures.

    Attributes:
        intro: Which ones, in a sentence.
        class_set: Names and colours; only for segmentation.
        pictures: Those that are shown, of one kind.
        best_from: Where the best begin, if the worst come first.
        has_pictures: Whether there are more than maps to show.
    """

    intro: str
    class_set: ClassSet | None
    pictures: Sequence[SegmentedPicture] | Sequence[ClassifiedPicture] | Sequence[LocalizedPicture]
    best_from: int | None = None
    has_pictures: bool = True


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

    def show(number: int) -> SegmentedPicture:
        image, label = read_pair(samples[number], predictor.classes)
        name = name_below(samples[number].image, folder.root)
        prediction = predictor(image).cpu().numpy()
        return segmented_picture(name, image, label, prediction, predictor.class_set)

    chosen = Choice(count).of(len(samples))
    pictures = list(_each(chosen, show, step))
    return Gallery(_intro(len(chosen), len(samples)), predictor.class_set, pictures)


def _classification(
    run: Run, recipe: Recipe, count: int, data: Path | None, device: torch.device, step: Step
) -> Gallery:
    folder = ClassFolder.open(recipe.data.root if data is None else data)
    samples = folder.samples("val")
    classifier = load_classifier(
        run.best,
        device,
        read_statistics=folder.stated_statistics,
        crop=recipe.augment.crop,
        resize=recipe.eval.resize,
    )
    samples = renumbered(samples, class_index(folder, classifier))

    def show(number: int) -> ClassifiedPicture:
        sample = samples[number]
        name = name_below(sample.image, folder.root)
        return classified_picture(name, read_image(sample.image), sample.target, classifier)

    chosen = Choice(count).of(len(samples))
    pictures = list(_each(chosen, show, step))
    return Gallery(_intro(len(chosen), len(samples)), None, pictures)


def _each(chosen: Sequence[int], show: Callable[[int], Picture], step: Step) -> Iterator[Picture]:
    for done, number in enumerate(chosen, start=1):
        yield show(number)
        step(done, len(chosen))


def _intro(shown: int, total: int) -> str:
    chosen = "all" if shown == total else f"{shown}, evenly spaced, of the"
    return f"The best network on {chosen} {total} validation pictures."
