"""Images on a page: predictions beside labels, training crops, classes and boxes."""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image

from drn_cli.data.augment import Augmentation
from drn_cli.data.boxes import Box
from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import ListDataset
from drn_cli.data.images import Pixels, read_image
from drn_cli.data.resized_crop import ResizedCrop
from drn_cli.data.showing.label_paint import outline
from drn_cli.data.showing.samples import SampleSelection
from drn_cli.errors import DrnError
from drn_cli.evaluation.class_index import class_index, remap
from drn_cli.evaluation.classification import TopKScores, worst_images
from drn_cli.evaluation.confusion import ImageScores, SegmentationScores, confusion, worst_first
from drn_cli.evaluation.localization import (
    Localization,
    LocalizationScores,
    is_correct,
    worst_boxes,
)
from drn_cli.formatting import percent
from drn_cli.inference.activation import Kind, See, activate
from drn_cli.inference.classifier import ClassificationPredictor, best_first
from drn_cli.inference.heat_maps import heat_overlay
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Recipe
from drn_cli.runs import Run

LONGEST, CROP = 560, 224  # longest side of an image and of a training crop on the page, in pixels
QUALITY = 82  # of JPEG
GUESSES = 3  # classes named for an image
CENTER = 4  # of ten crops
CROPS, EPOCHS = 6, 3  # training samples on the page, and the epochs that each is shown in
RIGHT_OPACITY, VOID_OPACITY = 0.37, 0.65  # of a difference
STRIPE = 0.008  # width of a stripe, of the longest side
WRONG, VOID = (255, 214, 10), (128, 128, 128)  # colors of a difference
UNKNOWN = 128  # gray, where only the maps are known

PLACE = "the place of the true class"

Step = Callable[[int, int], None]  # images done, of all
View = Mapping[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Tile:
    """An image on a page.

    Attributes:
        name: Path below the data folder.
        views: One or several drawings of it: `kind`, `source` (a data URL), `alt` and `size`.
        text: Scores, or how it was augmented.
        facts: Lines below it: label, and prediction.
        is_right: For images that are right or wrong as a whole.
        score: The higher, the better; None if nothing can be scored.
        boxes: Drawn over each view, as `true` or `found`, in pixels of the image.
        frame: Width and height of the image.
    """

    name: str
    views: Sequence[View]
    text: str = ""
    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_right: bool | None = None
    score: float | None = None
    boxes: Sequence[tuple[str, Box]] = ()
    frame: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a page.

    Attributes:
        kind: A task, or `crops`.
        intro: How they were chosen.
        best_from: Where the best begin; None if there is no such division.
        class_set: Names and colors of the classes, for label maps.
    """

    kind: str
    intro: str
    tiles: Sequence[Tile]
    best_from: int | None = None
    class_set: ClassSet | None = None

    @property
    def by_color(self) -> dict[str, str]:
        """Names of the classes by color, for the script; equal colors share one."""
        names: dict[str, str] = {}
        if self.class_set is not None:
            for name, color in zip(self.class_set.names, self.class_set.colours, strict=True):
                key = ",".join(map(str, color))
                names[key] = f"{names[key]} or {name}" if key in names else name
        return names


def worst_and_best(ordered: Sequence[Item], count: int) -> list[Item]:
    """Choose the first and the last, half of each; all if there are few."""
    if len(ordered) <= count:
        return list(ordered)
    best = count // 2
    return [*ordered[: count - best], *ordered[len(ordered) - best :]]


def ranked_gallery(
    kind: str,
    tiles: Sequence[Tile],
    total: int,
    score: str,
    *,
    images: str = "image",
    class_set: ClassSet | None = None,
) -> Gallery:
    """Describe tiles that `worst_and_best` chose among `total` images, ordered by a score."""
    if len(tiles) == total:
        intro = f"All {total} {images}s by {score}, the worst first."
        return Gallery(kind, intro if total > 1 else f"The only {images}.", tiles, None, class_set)
    best = len(tiles) // 2
    worst = len(tiles) - best
    chosen = [f"the {worst} worst" if worst > 1 else "the worst"]
    if best:
        chosen.append(f"the {best} best" if best > 1 else "the best")
    intro = f"Of {total} {images}s {' and '.join(chosen)} by {score}."
    return Gallery(kind, intro, tiles, worst if best else None, class_set)


def run_gallery(
    run: Run,
    scores: Mapping[str, Any],
    count: int,
    data: Path | None = None,
    step: Step = lambda done, total: None,
) -> Gallery:
    """Predict the worst and the best validation images of a run.

    Which these are was recorded with the best validation. Runs of older versions do not name them,
    and other data may have other images: those that are shown are then evenly spaced.

    Args:
        run: With a best network and a recipe.
        scores: Of its best validation.
        count: How many to show, at most.
        data: Data folder, if not that of the recipe.
        step: Called after each image.

    Raises:
        DrnError: There is no best network yet, or the images are missing or do not fit.
    """
    if not run.best.is_file():
        raise DrnError(f"{run.best}: not there yet", "the first validation writes it")
    recipe = load_recipe(str(run.recipe)).recipe
    prepare, score = _classification, PLACE
    if recipe.task == "segmentation":
        prepare, score = _segmentation, "mIoU"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tiles = []
    try:
        show, total, class_set = prepare(run, recipe, data, device)
        recorded = scores.get("images_worst_first") if scores.get("images") == total else None
        order = [n for n in recorded if n in range(total)] if isinstance(recorded, list) else []
        chosen = worst_and_best(order, count) if order else SampleSelection(count).of(total)
        for done, number in enumerate(chosen, start=1):
            tiles.append(show(number))
            step(done, len(chosen))
    except torch.OutOfMemoryError as error:
        raise DrnError(f"{device}: its memory is too small or in use") from error
    if not order:
        tiles.sort(key=lambda tile: (tile.score is None, tile.score or 0))
        if len(tiles) < total:
            intro = f"{len(tiles)} of {total} validation images, evenly spaced, the worst first."
            return Gallery(recipe.task, intro, tiles, None, class_set)
    of = total if len(tiles) < len(order) else len(tiles)
    return ranked_gallery(
        recipe.task, tiles, of, score, images="validation image", class_set=class_set
    )


Prepared = tuple[Callable[[int], Tile], int, ClassSet | None]  # a function of the sample's number


def _segmentation(run: Run, recipe: Recipe, data: Path | None, device: torch.device) -> Prepared:
    folder = _list_folder(recipe, data)
    samples = folder.samples("val")
    predictor = load_predictor(run.best, device, data=folder, view=recipe.eval)

    def show(number: int) -> Tile:
        image, label = read_pair(samples[number], predictor.classes)
        name = name_below(samples[number].image, folder.root)
        prediction = predictor(image).cpu().numpy()
        return segmentation_tile(name, image, label, prediction, predictor.class_set)

    return show, len(samples), predictor.class_set


def _classification(run: Run, recipe: Recipe, data: Path | None, device: torch.device) -> Prepared:
    folder = FolderDataset.open(recipe.data.root if data is None else data)
    classifier = load_classifier(
        run.best,
        device,
        read_statistics=folder.recorded_statistics,
        crop=recipe.augment.crop,
        resize=recipe.eval.resize,
    )
    samples = remap(folder.samples("val"), class_index(folder, classifier))

    def show(number: int) -> Tile:
        path = samples[number].image
        return classification_tile(
            name_below(path, folder.root), read_image(path), samples[number].target, classifier
        )

    return show, len(samples), None


def _list_folder(recipe: Recipe, data: Path | None) -> ListDataset:
    if data is None:
        return ListDataset.open(recipe.data.root, recipe.data.lists)
    return ListDataset.open(data)


def training_crops(run: Run, data: Path | None = None) -> Gallery:
    """Cut the crops that a run trained on.

    They are the very crops: a function of seed, epoch and sample. The borders of the classes are
    drawn in their colors, and stripes are pixels without a class.

    Raises:
        DrnError: The images are missing or do not fit the recipe.
    """
    recipe = load_recipe(str(run.recipe)).recipe
    seed, drawn = recipe.train.seed, recipe.augment
    intro = "Crops as the network saw them in the first epochs, augmented by the recipe."
    tiles = []

    def add(crop: Pixels, name: str, epoch: int, how: str, flipped: bool) -> None:
        text = f"epoch {epoch + 1}: {how}{', flipped' if flipped else ''}"
        view = _view("crop", _shrunk(crop, CROP), f"Training crop of {name}, {text}")
        tiles.append(Tile(name, [view], text))

    if recipe.task == "segmentation":
        lists = _list_folder(recipe, data)
        samples, class_set = lists.samples("train"), lists.class_set(recipe.data.classes)
        augmentation = Augmentation(drawn.crop, drawn.scale, drawn.rotate, drawn.flip)
        for number in SampleSelection(CROPS).of(len(samples)):
            image, label = read_pair(samples[number], len(class_set))
            name = name_below(samples[number].image, lists.root)
            for epoch in range(EPOCHS):
                draw = augmentation.draw(seed, epoch, number)
                crop, classes = augmentation.apply(image, label, draw)
                small = _shrunk(crop, CROP), _shrunk(classes, CROP, nearest=True)
                how = f"{draw.angle}°, {draw.ratio:.2f}x"
                add(outline(*small, class_set), name, epoch, how, draw.mirrored)
        intro += (
            " Lines are the borders of the label's classes in their colors, stripes are pixels "
            "without a label."
        )
    else:
        folder = FolderDataset.open(recipe.data.root if data is None else data)
        images, resized = folder.samples("train"), ResizedCrop(drawn.crop, drawn.flip)
        for number in SampleSelection(CROPS).of(len(images)):
            image = read_image(images[number].image)
            for epoch in range(EPOCHS):
                window = resized.draw(seed, epoch, number, *image.shape[:2])
                how = f"from {window.width}x{window.height}"
                name = folder.names[images[number].target]
                add(resized.apply(image, window), name, epoch, how, window.mirrored)
    return Gallery("crops", intro, tiles)


def segmentation_gallery(
    scores: SegmentationScores, class_set: ClassSet, show: Callable[[int], Tile], count: int
) -> Gallery:
    """Show the worst and the best images of an evaluation; `show` takes an image's number."""
    scored = [one for one in worst_first(scores.per_image) if one.miou is not None]
    tiles = [show(one.number) for one in worst_and_best(scored, count)]
    gallery = ranked_gallery("segmentation", tiles, len(scored), "mIoU", class_set=class_set)
    if void := len(scores.per_image) - len(scored):
        more = f"{gallery.intro} {void} more, all void, {'has' if void == 1 else 'have'} no score."
        return replace(gallery, intro=more)
    return gallery


def classification_gallery(
    scores: TopKScores, classifier: ClassificationPredictor, count: int
) -> Gallery:
    ranked = worst_images(scores.per_image)
    tiles = [
        classification_tile(one.image, read_image(Path(one.image)), one.target, classifier)
        for one in worst_and_best(ranked, count)
    ]
    return ranked_gallery("classification", tiles, len(ranked), PLACE)


def localization_gallery(
    scores: LocalizationScores,
    located: Sequence[Localization],
    classifier: ClassificationPredictor,
    see: See,
    kind: Kind,
    count: int,
) -> Gallery:
    """Show the worst and the best of all images that were scored, at the best threshold."""
    tiles = []
    for boxes in worst_and_best(worst_boxes(scores), count):
        of, first, best = located[boxes.number], boxes.classes[0], scores.best
        image = read_image(of.image)
        heat = heat_overlay(image, activate(classifier, image, see, kind), first)
        overlap = f"overlap {percent(float(boxes.iou[0, best]), 0)}"
        kinds, guess = [classifier.names[n] for n in of.classes], classifier.names[first]
        label = ", ".join(dict.fromkeys(kinds))
        count_text = f"{len(kinds)} true {'box' if len(kinds) == 1 else 'boxes'}"
        named = kinds if len(set(kinds)) > 1 else [""] * len(kinds)
        drawn = [
            ("true", replace(box, name=name)) for name, box in zip(named, of.boxes, strict=True)
        ]
        if not np.isnan(found := boxes.boxes[0, best]).any():
            drawn.append(("found", Box("", *found.tolist())))
        tiles.append(
            Tile(
                str(of.image),
                [
                    _view("image", _shrunk(image, LONGEST), f"{label}, {count_text}, {overlap}"),
                    _view("heat", _shrunk(heat, LONGEST), f"Activation of {guess}"),
                ],
                overlap,
                {"label": [label], "prediction": [f"{guess} {percent(boxes.probabilities[0], 0)}"]},
                bool(is_correct(boxes)[0, best]),
                boxes=drawn,
                frame=(image.shape[1], image.shape[0]),
            )
        )
    score = "the overlap of the likeliest class's box"
    return ranked_gallery("localization", tiles, len(located), score)


def segmentation_tile(
    name: str, image: Pixels | None, label: Pixels, prediction: Pixels, class_set: ClassSet
) -> Tile:
    """Make the tile of an image `(H, W, 3)`, if there is one, and of its maps `(H, W)`."""
    predicted, labels = (
        torch.from_numpy(np.require(values, requirements=["C", "W"]))
        for values in (prediction, label)
    )
    scores = ImageScores.of(confusion(predicted, labels, len(class_set)).numpy(), 0, name, name)

    def largest(classes: Pixels) -> str:
        counts = np.bincount(classes.ravel(), minlength=len(class_set))[: len(class_set)]
        order = [k for k in np.argsort(-counts, kind="stable")[:GUESSES] if counts[k]]
        texts = (f"{class_set.names[k]} {percent(counts[k] / classes.size, 0)}" for k in order)
        return ", ".join(texts) or "all void"

    small_label, small_prediction = (
        _shrunk(values, LONGEST, nearest=True) for values in (label, prediction)
    )
    height, width = small_label.shape
    base = np.full((height, width, 3), UNKNOWN, np.uint8)
    views = []
    if image is not None:
        base = _shrunk(image, LONGEST)
        views.append(_view("image", base, name))
    views += [
        _view("prediction", small_prediction, f"Prediction: {largest(prediction)}", class_set),
        _view("label", small_label, f"Label: {largest(label[label != IGNORED])}", class_set),
    ]
    # What is wrong has stripes, which need no color to be seen.
    stripe = max(2, round(STRIPE * max(height, width)))
    diagonal = (np.arange(height)[:, None] + np.arange(width)) // stripe % 2 == 0
    difference = np.where(
        (small_label == small_prediction)[..., None],
        base * RIGHT_OPACITY,
        np.where(diagonal[..., None], WRONG, base),
    )
    void = small_label == IGNORED
    difference[void] = base[void] * (1 - VOID_OPACITY) + np.multiply(VOID, VOID_OPACITY)
    views.append(_view("difference", difference.astype(np.uint8), "Difference"))
    text = "nothing to score"
    if scores.miou is not None and scores.pixel_accuracy is not None:
        right = percent(scores.pixel_accuracy)
        text = f"mIoU {percent(scores.miou)}, {right} of pixels right"
    return Tile(name, views, text, score=scores.miou)


def classification_tile(
    name: str, image: Pixels, truth: int, classifier: ClassificationPredictor
) -> Tile:
    """Make the tile of an image `(H, W, 3)` as a classifier sees it."""
    crops = classifier.crops(image)
    batch = torch.from_numpy(crops)[None].to(classifier.device)
    scores = classifier.log_probabilities(batch).cpu()
    numbers = best_first(scores)[0, :GUESSES].tolist()
    shares = scores[0, numbers].exp().tolist()
    guesses = [
        f"{classifier.names[k]} {percent(share, 0)}"
        for k, share in zip(numbers, shares, strict=True)
    ]
    shown = _shrunk(crops[CENTER if len(crops) > 1 else 0], LONGEST)
    return Tile(
        name,
        [_view("image", shown, f"Image of: {classifier.names[truth]}")],
        facts={"label": [classifier.names[truth]], "prediction": guesses},
        is_right=numbers[0] == truth,
        score=float(scores[0, truth].exp()),
    )


def name_below(path: Path, root: Path) -> str:
    """Return the path of a file relative to a folder, if it is below it."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _shrunk(image: Pixels, longest: int, *, nearest: bool = False) -> Pixels:
    """Shrink an image `(H, W, 3)` or a label map `(H, W)` until it fits on the page."""
    height, width = image.shape[:2]
    ratio = min(1.0, longest / max(height, width))
    size = max(1, round(ratio * width)), max(1, round(ratio * height))
    kind = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)


def _view(kind: str, pixels: Pixels, alt: str, class_set: ClassSet | None = None) -> View:
    """Encode an image `(H, W, 3)` as JPEG; class ids `(H, W)` as PNG in the colors of the classes.

    Pixels without a class are transparent.
    """
    image, file, encoding = Image.fromarray(pixels), io.BytesIO(), "jpeg"
    if class_set is None:
        image.save(file, "JPEG", quality=QUALITY, optimize=True)
    else:
        image.putpalette(class_set.palette())
        opaque = bytes((255,)) * IGNORED + bytes((0,))
        image.save(file, encoding := "png", transparency=opaque, optimize=True)
    source = f"data:image/{encoding};base64,{b64encode(file.getvalue()).decode()}"
    return {"kind": kind, "source": source, "alt": alt, "size": image.size}
