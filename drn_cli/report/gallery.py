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
from drn_cli.evaluation import localization
from drn_cli.evaluation.class_index import class_index, remap
from drn_cli.evaluation.classification import ImageRanking, TopKScores, worst_images
from drn_cli.evaluation.confusion import ImageScores, SegmentationScores, confusion, worst_first
from drn_cli.formatting import percent
from drn_cli.inference.activation import Region, Values, class_activation_map
from drn_cli.inference.classifier import ClassificationPredictor, topk
from drn_cli.inference.heat_maps import heat_map_overlay
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.recipe.loading import load_recipe
from drn_cli.runs import Run

LONGEST, CROP = 560, 224  # longest side of an image and of a training crop on the page, in pixels
QUALITY = 82  # of JPEG
TOP = 3  # classes named for an image
CENTER = 4  # index of the center in ten crops
CROPS, EPOCHS = 6, 3  # training samples on the page, and the epochs that each is shown in
RIGHT_OPACITY, VOID_OPACITY = 0.37, 0.65  # in a difference image
STRIPE = 0.008  # width of a stripe, relative to the longest side
WRONG, VOID = (255, 214, 10), (128, 128, 128)  # colors in a difference image
BACKGROUND = 128  # gray level of a difference image where only the label maps are known

RANK = "rank of the true class"

Step = Callable[[], object]
Item = TypeVar("Item")
View = Mapping[str, Any]  # `kind`, `source` (a data URL), `alt` and `size`


@dataclass(frozen=True, slots=True)
class Tile:
    """An image on a page."""

    name: str  # path relative to the data folder
    views: Sequence[View]  # drawings of the image
    text: str = ""  # scores, or augmentation parameters
    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # label and prediction
    correct: bool | None = None  # for images that are right or wrong as a whole
    score: float | None = None  # higher is better; None if nothing can be scored
    boxes: Sequence[tuple[str, Box]] = ()  # `true` or `found`, in pixels of the image
    frame: tuple[int, int] = (0, 0)  # width and height of the image


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a section."""

    kind: str  # a task, or `crops`
    intro: str  # how the images were selected
    tiles: Sequence[Tile]
    best_from: int | None = None  # index of the first of the best; None if all are in one group
    class_set: ClassSet | None = None  # of label maps


def _ranked_gallery(
    kind: str,
    ranked: Sequence[Item],
    count: int,
    show: Callable[[Item], Tile],
    score: str,
    class_set: ClassSet | None = None,
    images: str = "images",
) -> Gallery:
    """Show the first and the last images of a ranking, half of each."""
    best = count // 2 if count < len(ranked) else 0
    tiles = [show(item) for item in (*ranked[: count - best], *ranked[len(ranked) - best :])]
    intro = f"{len(tiles)} of {len(ranked)} {images} by {score}, the worst first."
    return Gallery(kind, intro, tiles, count - best if best else None, class_set)


def run_gallery(
    run: Run, scores: Mapping[str, Any], count: int, data: Path | None, step: Step
) -> Gallery:
    """Predict the worst and the best images of a run's best validation.

    Without a recorded ranking of these images (older versions, other data), the images are evenly
    spaced over the list.

    Raises:
        DrnError: There is no best checkpoint yet, or the images are missing or do not fit.
    """
    if not run.best.is_file():
        raise DrnError(f"{run.best}: no such file", "the first validation writes it")
    recipe = load_recipe(str(run.recipe)).recipe
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if recipe.task == "segmentation":
            lists = ListDataset.open(data or recipe.data.root, None if data else recipe.data.lists)
            pairs, score = lists.samples("val"), "mIoU"
            predictor = load_predictor(run.best, device, data=lists, view=recipe.eval)
            total, class_set = len(pairs), predictor.class_set

            def show(number: int) -> Tile:
                image, label = read_pair(pairs[number], predictor.classes)
                prediction = predictor(image).cpu().numpy()
                step()
                name = name_below(pairs[number].image, lists.root)
                return segmentation_tile(name, image, label, prediction, predictor.class_set)

        else:
            folder = FolderDataset.open(data or recipe.data.root)
            read, crop = folder.recorded_statistics, recipe.augment.crop
            classifier = load_classifier(
                run.best, device, read_statistics=read, crop=crop, resize=recipe.eval.resize
            )
            samples = remap(folder.samples("val"), class_index(folder, classifier))
            total, class_set, score = len(samples), None, RANK

            def show(number: int) -> Tile:
                path, target = samples[number].image, samples[number].target
                name = name_below(path, folder.root)
                tile = classification_tile(name, path, target, classifier)
                step()
                return tile

        recorded = scores.get("images_worst_first")
        if scores.get("images") == total and isinstance(recorded, list):
            ranked, images = [n for n in recorded if n in range(total)], "validation images"
            return _ranked_gallery(recipe.task, ranked, count, show, score, class_set, images)
        tiles = [show(number) for number in SampleSelection(count).of(total)]
    except torch.OutOfMemoryError as error:
        raise DrnError(f"{device}: out of memory") from error
    tiles.sort(key=lambda tile: (tile.score is None, tile.score or 0))
    intro = f"{len(tiles)} of {total} validation images, evenly spaced, the worst first."
    return Gallery(recipe.task, intro, tiles, None, class_set)


def training_crops(run: Run, data: Path | None = None) -> Gallery:
    """Repeat the first training crops of a run, which depend on seed, epoch and sample only.

    Label maps are drawn as borders in the colors of the classes.

    Raises:
        DrnError: The images are missing or do not fit the recipe.
    """
    recipe = load_recipe(str(run.recipe)).recipe
    seed, augment = recipe.train.seed, recipe.augment
    intro = "Crops as the network saw them in the first epochs, augmented by the recipe."
    if recipe.task == "segmentation":
        intro += " Lines are borders of classes in their colors, stripes are pixels without label."
        lists = ListDataset.open(data or recipe.data.root, None if data else recipe.data.lists)
        samples, class_set = lists.samples("train"), lists.class_set(recipe.data.classes)
        augmentation = Augmentation(augment.crop, augment.scale, augment.rotate, augment.flip)
        total = len(samples)

        def crop(number: int, epoch: int) -> tuple[Pixels, str, str]:
            draw = augmentation.draw(seed, epoch, number)
            pair = augmentation.apply(*read_pair(samples[number], len(class_set)), draw)
            shown = outline(_shrunk(pair[0], CROP), _shrunk(pair[1], CROP), class_set)
            name = name_below(samples[number].image, lists.root)
            how = f"{draw.angle}°, {draw.ratio:.2f}x{', flipped' if draw.mirrored else ''}"
            return shown, name, how

    else:
        folder = FolderDataset.open(data or recipe.data.root)
        images, resized = folder.samples("train"), ResizedCrop(augment.crop, augment.flip)
        total = len(images)

        def crop(number: int, epoch: int) -> tuple[Pixels, str, str]:
            image = read_image(images[number].image)
            window = resized.draw(seed, epoch, number, *image.shape[:2])
            shown = _shrunk(resized.apply(image, window), CROP)
            name = folder.names[images[number].target]
            flipped = ", flipped" if window.mirrored else ""
            return shown, name, f"from {window.width}x{window.height}{flipped}"

    tiles = []
    for number in SampleSelection(CROPS).of(total):
        for epoch in range(EPOCHS):
            shown, name, how = crop(number, epoch)
            text = f"epoch {epoch + 1}: {how}"
            view = _view("crop", shown, f"Training crop of {name}, {text}")
            tiles.append(Tile(name, [view], text))
    return Gallery("crops", intro, tiles)


def segmentation_gallery(
    scores: SegmentationScores, class_set: ClassSet, show: Callable[[int], Tile], count: int
) -> Gallery:
    """Show the worst and the best images of an evaluation; `show` takes an image's number."""
    scored = [one.number for one in worst_first(scores.per_image) if one.miou is not None]
    gallery = _ranked_gallery("segmentation", scored, count, show, "mIoU", class_set)
    if void := len(scores.per_image) - len(scored):
        return replace(gallery, intro=f"{gallery.intro} Not scored, all void: {void}.")
    return gallery


def classification_gallery(
    scores: TopKScores, classifier: ClassificationPredictor, count: int
) -> Gallery:
    """Show the worst and the best images of an evaluation."""

    def show(one: ImageRanking) -> Tile:
        return classification_tile(one.image, Path(one.image), one.target, classifier)

    return _ranked_gallery("classification", worst_images(scores.per_image), count, show, RANK)


def localization_gallery(
    scores: localization.LocalizationScores,
    located: Sequence[localization.Localization],
    classifier: ClassificationPredictor,
    see: Region,
    kind: Values,
    count: int,
) -> Gallery:
    """Show the worst and the best images of an evaluation, with boxes at the best threshold."""

    def show(found: localization.ImageBoxes) -> Tile:
        truth, first = located[found.number], found.classes[0]
        image = read_image(truth.image)
        heat = heat_map_overlay(image, class_activation_map(classifier, image, see, kind), first)
        overlap = f"overlap {percent(float(found.iou[0, scores.best]), 0)}"
        names, guess = [classifier.names[n] for n in truth.classes], classifier.names[first]
        label = ", ".join(dict.fromkeys(names))
        several = len(set(names)) > 1  # only then a box needs a name
        boxes = [
            ("true", replace(box, name=name if several else ""))
            for name, box in zip(names, truth.boxes, strict=True)
        ]
        if not np.isnan(corners := found.boxes[0, scores.best]).any():
            boxes.append(("found", Box("", *corners.tolist())))
        text = f"{label}, {len(names)} true {'box' if len(names) == 1 else 'boxes'}, {overlap}"
        views = [_view("image", image, text), _view("heat", heat, f"Activation of {guess}")]
        facts = {"label": [label], "prediction": [f"{guess} {percent(found.probabilities[0], 0)}"]}
        right = bool(localization.is_correct(found)[0, scores.best])
        size = image.shape[1], image.shape[0]
        return Tile(str(truth.image), views, overlap, facts, right, boxes=boxes, frame=size)

    ranked, score = localization.worst_boxes(scores), "overlap of the top-1 box"
    return _ranked_gallery("localization", ranked, count, show, score)


def segmentation_tile(
    name: str, image: Pixels | None, label: Pixels, prediction: Pixels, class_set: ClassSet
) -> Tile:
    """Make the tile of an image `(H, W, 3)`, if there is one, and of its maps `(H, W)`."""
    counted = confusion(torch.tensor(prediction), torch.tensor(label), len(class_set))
    scores = ImageScores.of(counted.numpy(), 0, name, name)

    def largest(ids: Pixels) -> str:
        counts = np.bincount(ids.ravel(), minlength=len(class_set))[: len(class_set)]
        order = [k for k in np.argsort(-counts, kind="stable")[:TOP] if counts[k]]
        texts = (f"{class_set.names[k]} {percent(counts[k] / ids.size, 0)}" for k in order)
        return ", ".join(texts) or "all void"

    small_label, small_prediction = _shrunk(label, LONGEST), _shrunk(prediction, LONGEST)
    height, width = small_label.shape
    base = np.full((height, width, 3), BACKGROUND, np.uint8)
    views = []
    if image is not None:
        base = _shrunk(image, LONGEST)
        views.append(_view("image", base, name))
    # Wrong pixels have stripes, which can be seen without color.
    stripe = max(2, round(STRIPE * max(height, width)))
    diagonal = (np.arange(height)[:, None] + np.arange(width)) // stripe % 2 == 0
    wrong, void = small_label != small_prediction, small_label == IGNORED
    difference = base * np.where(wrong, 1, RIGHT_OPACITY)[..., None]
    difference[wrong & diagonal] = WRONG
    difference[void] = base[void] * (1 - VOID_OPACITY) + np.multiply(VOID, VOID_OPACITY)
    views += [
        _view("prediction", small_prediction, f"Prediction: {largest(prediction)}", class_set),
        _view("label", small_label, f"Label: {largest(label[label != IGNORED])}", class_set),
        _view("difference", difference.astype(np.uint8), "Difference"),
    ]
    text = "nothing to score"
    if scores.miou is not None and scores.pixel_accuracy is not None:
        right = percent(scores.pixel_accuracy)
        text = f"mIoU {percent(scores.miou)}, {right} of pixels right"
    return Tile(name, views, text, score=scores.miou)


def classification_tile(
    name: str, path: Path, target: int, classifier: ClassificationPredictor
) -> Tile:
    """Make the tile of an image file: its center crop, label and most likely classes."""
    crops = classifier.crops(read_image(path))
    batch = torch.from_numpy(crops)[None].to(classifier.device)
    [scores] = classifier.log_probabilities(batch).cpu()
    top = topk(scores[None], TOP)[0].tolist()
    guesses = [f"{classifier.names[k]} {percent(float(scores[k].exp()), 0)}" for k in top]
    label = classifier.names[target]
    view = _view("image", crops[CENTER if len(crops) > 1 else 0], f"Image of: {label}")
    facts = {"label": [label], "prediction": guesses}
    right, score = top[0] == target, float(scores[target].exp())
    return Tile(name, [view], facts=facts, correct=right, score=score)


def name_below(path: Path, root: Path) -> str:
    """Return the path of a file relative to a folder, if it is below it."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _shrunk(image: Pixels, longest: int) -> Pixels:
    """Shrink an image `(H, W, 3)` or a label map `(H, W)` until it fits on the page."""
    height, width = image.shape[:2]
    ratio = min(1.0, longest / max(height, width))
    size = max(1, round(ratio * width)), max(1, round(ratio * height))
    kind = cv2.INTER_AREA if image.ndim == 3 else cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)


def _view(kind: str, pixels: Pixels, alt: str, class_set: ClassSet | None = None) -> View:
    """Encode an image `(H, W, 3)` as JPEG, or class ids `(H, W)` as PNG with transparent void.

    Both are shrunk to fit on the page.
    """
    image, file, encoding = Image.fromarray(_shrunk(pixels, LONGEST)), io.BytesIO(), "jpeg"
    if class_set is None:
        image.save(file, "JPEG", quality=QUALITY, optimize=True)
    else:
        image.putpalette(class_set.palette())
        opaque = bytes((255,)) * IGNORED + bytes((0,))
        image.save(file, encoding := "png", transparency=opaque, optimize=True)
    source = f"data:image/{encoding};base64,{b64encode(file.getvalue()).decode()}"
    return {"kind": kind, "source": source, "alt": alt, "size": image.size}
