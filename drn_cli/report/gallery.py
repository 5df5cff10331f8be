"""Images on a page: predictions beside labels, training crops, classes and boxes."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image

from drn_cli.data.augment import Augmentation
from drn_cli.data.class_folders import ClassFolder
from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import ListFolder
from drn_cli.data.images import Pixels, read_image
from drn_cli.data.resized_crop import ResizedCrop
from drn_cli.data.showing.label_paint import outlined
from drn_cli.data.showing.samples import Choice
from drn_cli.errors import DrnError
from drn_cli.evaluation.class_index import class_index, renumbered
from drn_cli.evaluation.confusion import PictureScores, confusion
from drn_cli.evaluation.localization import LocalizationScores, Located, PictureBoxes, is_right
from drn_cli.formatting import percent
from drn_cli.inference.activation import Kind, See, activate
from drn_cli.inference.classifier import Classifier, best_first
from drn_cli.inference.heat_maps import heat_overlay
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Recipe
from drn_cli.runs import Run

LONGEST, CROP = 560, 224  # longest side of an image and of a training crop on the page, in pixels
QUALITY = 82  # of JPEG
GUESSES = 3  # classes named for an image
CENTER = 4  # of ten crops
CANDIDATES = 4  # images that are predicted for each one that a run's page shows
CROPS, EPOCHS = 6, 3  # training samples on the page, and the epochs that each is shown in
RIGHT_OPACITY, STRIPE = 0.37, 0.008  # of what is right; width of a stripe, of the longest side
WRONG, VOID = (255, 214, 10), (128, 128, 128)  # colors of a difference
UNKNOWN = 128  # gray, where only the maps are known

Step = Callable[[int, int], None]  # images done, of all


@dataclass(frozen=True, slots=True)
class SegmentationTile:
    """An image with label and prediction, as files of one size.

    Attributes:
        name: Path below the data folder.
        size: Width and height of the files.
        image: JPEG; None if only the maps are known.
        label: PNG in the colors of the classes, transparent where it is void.
        prediction: PNG in the colors of the classes.
        difference: JPEG of the image, dimmed where the prediction is right.
        label_classes: The largest classes of the label with their shares of the valid pixels.
        predicted_classes: Those of the prediction, as shares of all pixels.
        score: Mean IoU over its classes; None if no pixel is valid.
        accuracy: Share of the valid pixels that is right; None likewise.
    """

    name: str
    size: tuple[int, int]
    image: bytes | None
    label: bytes
    prediction: bytes
    difference: bytes
    label_classes: tuple[tuple[str, float], ...]
    predicted_classes: tuple[tuple[str, float], ...]
    score: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class ClassificationTile:
    """An image with its class and the likeliest classes.

    Attributes:
        name: Path below the data folder.
        size: Width and height of the file.
        image: JPEG of the part that the network sees.
        truth: Name of its class.
        guesses: The likeliest classes and their probabilities.
        is_right: Whether the likeliest is the true one.
        score: Probability of the true class.
    """

    name: str
    size: tuple[int, int]
    image: bytes
    truth: str
    guesses: tuple[tuple[str, float], ...]
    is_right: bool
    score: float | None


@dataclass(frozen=True, slots=True)
class LocalizationTile:
    """An image with true boxes and the box that was found.

    Attributes:
        name: Path of the image.
        size: Width and height of the files.
        image: JPEG.
        heat: JPEG with the activation of the likeliest class over the image.
        whole: Width and height of the image itself, the pixels of all boxes.
        true: Class and xmin, ymin, xmax, ymax of the true boxes.
        found: Corners of the box that was found, if there is one.
        guess: The likeliest class and its probability.
        iou: Of the box that was found with the best true one of its class.
        is_right: Whether that is enough.
    """

    name: str
    size: tuple[int, int]
    image: bytes
    heat: bytes
    whole: tuple[int, int]
    true: tuple[tuple[str, tuple[float, ...]], ...]
    found: tuple[float, ...] | None
    guess: tuple[str, float]
    iou: float
    is_right: bool


Tile = SegmentationTile | ClassificationTile | LocalizationTile
AnyTile = TypeVar("AnyTile", SegmentationTile, ClassificationTile)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a page.

    Attributes:
        kind: Of the tiles.
        intro: How they were chosen.
        tiles: The images; the worst come first.
        best_from: Where the best begin; None if there is no such division.
        class_set: Names and colors of the classes, for segmentation.
    """

    kind: Literal["segmentation", "classification", "localization"]
    intro: str
    tiles: Sequence[Tile]
    best_from: int | None = None
    class_set: ClassSet | None = None

    @property
    def by_color(self) -> dict[str, str]:
        """Return the names of the classes by color, for the script; equal colors share one."""
        names: dict[str, str] = {}
        if self.class_set is not None:
            for name, color in zip(self.class_set.names, self.class_set.colours, strict=True):
                key = ",".join(map(str, color))
                names[key] = f"{names[key]} or {name}" if key in names else name
        return names


def run_gallery(
    run: Run, count: int, data: Path | None = None, step: Step = lambda done, total: None
) -> Gallery:
    """Predict validation images, evenly spaced, and choose the worst and the best of them.

    Args:
        run: With a best network and a recipe.
        count: How many to show, at most.
        data: Data folder, if not that of the recipe.
        step: Called after each image.

    Raises:
        DrnError: There is no best network yet, or the images are missing or do not fit.
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
    folder = _list_folder(recipe, data)
    samples = folder.samples("val")
    predictor = load_predictor(run.best, device, data=folder, view=recipe.eval)

    def show(number: int) -> SegmentationTile:
        image, label = read_pair(samples[number], predictor.classes)
        name = name_below(samples[number].image, folder.root)
        prediction = predictor(image).cpu().numpy()
        return segmentation_tile(name, image, label, prediction, predictor.class_set)

    tiles = _each(show, len(samples), count, step)
    return _chosen("segmentation", tiles, count, len(samples), "mIoU", predictor.class_set)


def _classification(
    run: Run, recipe: Recipe, count: int, data: Path | None, device: torch.device, step: Step
) -> Gallery:
    folder = ClassFolder.open(recipe.data.root if data is None else data)
    classifier = load_classifier(
        run.best,
        device,
        read_statistics=folder.stated_statistics,
        crop=recipe.augment.crop,
        resize=recipe.eval.resize,
    )
    samples = renumbered(folder.samples("val"), class_index(folder, classifier))

    def show(number: int) -> ClassificationTile:
        sample = samples[number]
        name = name_below(sample.image, folder.root)
        return classification_tile(name, read_image(sample.image), sample.target, classifier)

    tiles = _each(show, len(samples), count, step)
    score = "the probability of the true class"
    return _chosen("classification", tiles, count, len(samples), score, None)


def _list_folder(recipe: Recipe, data: Path | None) -> ListFolder:
    if data is None:
        return ListFolder.open(recipe.data.root, recipe.data.lists)
    return ListFolder.open(data)


def _each(show: Callable[[int], AnyTile], total: int, count: int, step: Step) -> Iterator[AnyTile]:
    numbers = Choice(CANDIDATES * count).of(total)
    for done, number in enumerate(numbers, start=1):
        yield show(number)
        step(done, len(numbers))


def _chosen(
    kind: Literal["segmentation", "classification"],
    made: Iterator[AnyTile],
    count: int,
    total: int,
    score: str,
    class_set: ClassSet | None,
) -> Gallery:
    """Keep the worst and the best of the tiles, and say of how many."""
    tiles = list(made)
    scored = sorted(
        (tile for tile in tiles if tile.score is not None), key=lambda tile: tile.score or 0.0
    )
    chosen = worst_and_best(scored, count)
    which = "validation images"
    if len(tiles) < total:
        which += f", evenly spaced among {total},"
    intro = describe_choice(len(chosen), len(scored), score, which)
    return Gallery(kind, intro, chosen, best_from(len(chosen), len(scored)), class_set)


def training_crops(run: Run, data: Path | None = None) -> list[dict[str, Any]]:
    """Cut the crops that a run trained on, each with its image's name and how it was augmented.

    They are the very crops: a function of seed, epoch and sample. The borders of the classes are
    drawn in their colors, and stripes are pixels without a class.

    Raises:
        DrnError: The images are missing or do not fit the recipe.
    """
    recipe = load_recipe(str(run.recipe)).recipe
    seed, drawn = recipe.train.seed, recipe.augment
    tiles = []
    if recipe.task == "segmentation":
        lists = _list_folder(recipe, data)
        samples, class_set = lists.samples("train"), lists.class_set(recipe.data.classes)
        augmentation = Augmentation(drawn.crop, drawn.scale, drawn.rotate, drawn.flip)
        for number in Choice(CROPS).of(len(samples)):
            image, label = read_pair(samples[number], len(class_set))
            for epoch in range(EPOCHS):
                draw = augmentation.draw(seed, epoch, number)
                crop, classes = augmentation.apply(image, label, draw)
                small = _shrunk(crop, CROP), _shrunk(classes, CROP, nearest=True)
                tiles.append(
                    {
                        "image": _jpeg(outlined(*small, class_set)),
                        "name": name_below(samples[number].image, lists.root),
                        "text": f"epoch {epoch + 1}: {draw.angle}°, {draw.ratio:.2f}x"
                        f"{', flipped' if draw.mirrored else ''}",
                    }
                )
        return tiles
    folder = ClassFolder.open(recipe.data.root if data is None else data)
    images, resized = folder.samples("train"), ResizedCrop(drawn.crop, drawn.flip)
    for number in Choice(CROPS).of(len(images)):
        image = read_image(images[number].image)
        for epoch in range(EPOCHS):
            window = resized.draw(seed, epoch, number, *image.shape[:2])
            tiles.append(
                {
                    "image": _jpeg(_shrunk(resized.apply(image, window), CROP)),
                    "name": folder.names[images[number].target],
                    "text": f"epoch {epoch + 1}: from {window.width}x{window.height}"
                    f"{', flipped' if window.mirrored else ''}",
                }
            )
    return tiles


def worst_and_best(ordered: Sequence[Item], count: int) -> list[Item]:
    """Choose the first and the last, half of each; all if there are few."""
    if len(ordered) <= count:
        return list(ordered)
    best = count // 2
    return [*ordered[: count - best], *ordered[len(ordered) - best :]]


def best_from(shown: int, total: int) -> int | None:
    """Return at which of the images on the page the best begin; None if all are shown, or one."""
    return shown - shown // 2 if 1 < shown < total else None


def describe_choice(shown: int, total: int, score: str, images: str = "images") -> str:
    """Describe which images a page shows, in which order."""
    best = best_from(shown, total)
    if best is None:
        which = f"All {total} {images}" if shown == total else f"Of {total} {images} the worst"
        return f"{which} by {score}, the worst first."
    return f"Of {total} {images} the {best} worst and the {shown - best} best by {score}."


def segmentation_tile(
    name: str, image: Pixels | None, label: Pixels, prediction: Pixels, class_set: ClassSet
) -> SegmentationTile:
    """Make the tile of an image `(H, W, 3)`, if there is one, and of its maps `(H, W)`."""
    predicted, labels = (
        torch.from_numpy(np.require(values, requirements=["C", "W"]))
        for values in (prediction, label)
    )
    scores = PictureScores.of(confusion(predicted, labels, len(class_set)).numpy(), 0, name, name)
    small_label, small_prediction = (
        _shrunk(values, LONGEST, nearest=True) for values in (label, prediction)
    )
    small = None if image is None else _shrunk(image, LONGEST)
    height, width = small_label.shape
    # What is wrong has stripes, which need no color to be seen.
    stripe = max(2, round(STRIPE * max(height, width)))
    diagonal = (np.arange(height)[:, None] + np.arange(width)) // stripe % 2 == 0
    base = np.full((height, width, 3), UNKNOWN, np.uint8) if small is None else small
    difference = np.where(
        (small_label == small_prediction)[..., None],
        base * RIGHT_OPACITY,
        np.where(diagonal[..., None], WRONG, base),
    )
    void = small_label == IGNORED
    difference[void] = base[void] * (1 - 0.65) + np.multiply(VOID, 0.65)

    def largest(classes: Pixels) -> tuple[tuple[str, float], ...]:
        counts = np.bincount(classes.ravel(), minlength=len(class_set))[: len(class_set)]
        order = np.argsort(-counts, kind="stable")[:GUESSES]
        return tuple((class_set.names[k], counts[k] / classes.size) for k in order if counts[k])

    return SegmentationTile(
        name,
        (width, height),
        None if small is None else _jpeg(small),
        _label_png(small_label, class_set),
        _label_png(small_prediction, class_set),
        _jpeg(difference.astype(np.uint8)),
        largest(label[label != IGNORED]),
        largest(prediction),
        scores.miou,
        scores.pixel_accuracy,
    )


def classification_tile(
    name: str, image: Pixels, truth: int, classifier: Classifier
) -> ClassificationTile:
    """Make the tile of an image `(H, W, 3)` as a classifier sees it."""
    crops = classifier.crops(image)
    batch = torch.from_numpy(crops)[None].to(classifier.device)
    scores = classifier.log_probabilities(batch).cpu()
    numbers = best_first(scores)[0, :GUESSES].tolist()
    shares = scores[0, numbers].exp().tolist()
    shown = _shrunk(crops[CENTER if len(crops) > 1 else 0], LONGEST)
    return ClassificationTile(
        name,
        (shown.shape[1], shown.shape[0]),
        _jpeg(shown),
        classifier.names[truth],
        tuple((classifier.names[k], share) for k, share in zip(numbers, shares, strict=True)),
        numbers[0] == truth,
        float(scores[0, truth].exp()),
    )


def localization_tile(
    boxes: PictureBoxes,
    located: Located,
    classifier: Classifier,
    see: See,
    kind: Kind,
    scores: LocalizationScores,
) -> LocalizationTile:
    """Make the tile of an image at the best threshold."""
    image, first, best = read_image(located.image), boxes.classes[0], scores.best
    heat = heat_overlay(image, activate(classifier, image, see, kind), first)
    found, shown = boxes.boxes[0, best], _shrunk(image, LONGEST)
    return LocalizationTile(
        name=str(located.image),
        size=(shown.shape[1], shown.shape[0]),
        image=_jpeg(shown),
        heat=_jpeg(_shrunk(heat, LONGEST)),
        whole=(image.shape[1], image.shape[0]),
        true=tuple(
            (classifier.names[of], (true.xmin, true.ymin, true.xmax, true.ymax))
            for true, of in zip(located.boxes, located.classes, strict=True)
        ),
        found=None if np.isnan(found).any() else tuple(found.tolist()),
        guess=(classifier.names[first], boxes.probabilities[0]),
        iou=float(boxes.iou[0, best]),
        is_right=bool(is_right(boxes)[0, best]),
    )


def name_below(path: Path, root: Path) -> str:
    """Return the path of a file relative to a folder, if it is below it."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def shares(classes: Sequence[tuple[str, float]]) -> str:
    """List classes with their shares."""
    return ", ".join(f"{name} {percent(share, 0)}" for name, share in classes) or "all void"


def _shrunk(image: Pixels, longest: int, *, nearest: bool = False) -> Pixels:
    """Shrink an image `(H, W, 3)` or a label map `(H, W)` until it fits on the page."""
    height, width = image.shape[:2]
    ratio = min(1.0, longest / max(height, width))
    size = max(1, round(ratio * width)), max(1, round(ratio * height))
    kind = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)


def _jpeg(image: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


def _label_png(label: Pixels, class_set: ClassSet) -> bytes:
    """Encode class ids `(H, W)` in the colors of the classes; void is transparent."""
    image, file = Image.fromarray(label), io.BytesIO()
    image.putpalette(class_set.palette())
    image.save(file, "PNG", transparency=bytes((255,)) * IGNORED + bytes((0,)), optimize=True)
    return file.getvalue()
