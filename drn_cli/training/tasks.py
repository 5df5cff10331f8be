"""What differs between training a segmenter and a classifier; everything else is one engine."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.labels import ADD_BACKGROUND, ADD_FOLDER, TOO_FEW
from drn_cli.data.audit.quick import WHOLE, find_truncated, quick_check, spaced
from drn_cli.data.audit.reading import DataFile, read_file_info
from drn_cli.data.augment import Augmentation
from drn_cli.data.batches import TrainDataset
from drn_cli.data.cache import FOLDER as CACHE_FOLDER
from drn_cli.data.cache import DecodedCache, open_cache
from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.classes import ClassSet, generic
from drn_cli.data.classification import ClassificationSet
from drn_cli.data.file_search import LeftOut
from drn_cli.data.folders import ChannelStats, ListDataset
from drn_cli.data.resized_crop import ResizedCrop
from drn_cli.device import Precision, autocast_type
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError, few_of
from drn_cli.evaluation import classification, segmentation
from drn_cli.evaluation.confusion import worst_first
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.memory import TileSizer
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.preparation import for_inference
from drn_cli.networks.models import DRN
from drn_cli.recipe.schema import Recipe

log = logging.getLogger(__name__)

NAMED = 5  # classes without images in a message
LISTS = ("train_images.txt", "train_labels.txt", "val_images.txt", "val_labels.txt", "info.json")
MOST_SHOWN = 200  # images in a report
LOOKED_AT = 32  # images of class folders that are read before training


@dataclass(frozen=True, slots=True)
class DataBundle:
    """What a recipe names on the disk.

    Attributes:
        train, val: Of type `Sample` or `ClassSample`.
        statistics: Mean and standard deviation of the training images.
        class_set: Names and colours of the classes.
        root: The folder that files are named from.
        folders: The folder of each class, for a classifier.
        left_out: What lies in the folders, may be wanted and is not used, a line each.
        lists: The folder of the lists and info.json, for a segmenter.
        class_pixels: Pixels of each class in the training labels, if preparation counted them.
    """

    train: Sequence[Any]
    val: Sequence[Any]
    statistics: ChannelStats
    class_set: ClassSet
    root: Path
    folders: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()
    lists: Path | None = None
    class_pixels: tuple[int, ...] | None = None

    def fingerprints(self) -> dict[str, str]:
        """Return SHA-256 digests of what decides which files are trained on, and in which order.

        For a list folder these are its lists and info.json, for class folders the image names.
        """
        if self.lists is not None:
            files = [self.lists / name for name in LISTS]
            return {
                file.name: hashlib.sha256(file.read_bytes()).hexdigest()
                for file in files
                if file.is_file()
            }
        return {
            split: hashlib.sha256(
                b"".join(f"{sample.image.relative_to(self.root)}\n".encode() for sample in samples)
            ).hexdigest()
            for split, samples in (("train", self.train), ("val", self.val))
        }


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What a validation found.

    Attributes:
        value: What the best network is chosen by: mIoU, or top-1 accuracy.
        scores: All scores, with class names, ready for JSON.
    """

    value: float
    scores: dict[str, Any]


class Evaluable(Protocol):
    """What a validation needs of a run: the part of `training.setup.TrainState` that tasks use."""

    recipe: Recipe
    group: Group
    material: DataBundle
    precision: Precision
    tiles: TileSizer

    @property
    def judged(self) -> DRN:
        """The network that is validated."""


class Task(Protocol):
    """What a task knows of its data and scores."""

    def find_material(self, recipe: Recipe) -> DataBundle:
        """Read the lists, so that a mistake shows before any process starts.

        Raises:
            DrnError: A list or file is missing, or the recipe does not fit.
        """

    def look_over(self, material: DataBundle) -> list[str]:
        """Look at some of the files, so that a bad one shows before the first step.

        Returns:
            What is merely odd.

        Raises:
            DrnError: An image or label that was looked at cannot be used.
        """

    def dataset(self, recipe: Recipe, material: DataBundle, *, aloud: bool) -> Dataset[Any]:
        """Give augmented samples for training."""

    def validate(
        self,
        training: Evaluable,
        samples: Sequence[Any],
        step: Callable[[], object],
        stop: Callable[[], bool],
    ) -> ValidationResult | None:
        """Score the network, which is in evaluation mode, on samples that all processes share.

        Args:
            training: What is trained.
            samples: All of them, in every process.
            step: Called after each image.
            stop: Asked after it; where it says so in any process, all give up, and None is given.
        """


def task_of(recipe: Recipe) -> Task:
    """Give what belongs to the recipe's task."""
    return Segmentation() if recipe.task == "segmentation" else Classification()


class Segmentation:
    """List folders of images and label maps; mIoU."""

    def find_material(self, recipe: Recipe) -> DataBundle:
        folder = ListDataset.open(recipe.data.root, recipe.data.lists)
        return DataBundle(
            folder.samples("train"),
            folder.samples("val"),
            folder.statistics(),
            folder.class_set(recipe.data.classes),
            Path(recipe.data.root),
            lists=folder.lists,
            class_pixels=folder.class_pixels("train", recipe.data.classes),
        )

    def look_over(self, material: DataBundle) -> list[str]:
        classes, lists = material.class_set, material.lists or material.root
        if len(classes) < 2:
            raise DrnError(f"data.classes: {len(classes)}; {TOO_FEW}", ADD_BACKGROUND)
        found = quick_check(
            material.train,
            len(classes),
            names=classes.names,
            counted=material.class_pixels,
            listed=lists / "train_labels.txt",
        )
        odd = reported(found + quick_check(material.val, len(classes)))
        if material.class_pixels is None and len(material.train) > WHOLE:
            odd.append(
                f"{lists / 'info.json'}: has no pixels of each class, so that classes without a "
                f"training pixel were not looked for (drn data check {material.root} does)"
            )
        return odd

    def dataset(self, recipe: Recipe, material: DataBundle, *, aloud: bool) -> Dataset[Any]:
        augment = recipe.augment
        return TrainDataset(
            material.train,
            recipe.data.classes,
            Augmentation(augment.crop, augment.scale, augment.rotate, augment.flip),
            recipe.train.seed,
            _cache(recipe, material, aloud=aloud),
        )

    def validate(
        self,
        training: Evaluable,
        samples: Sequence[Any],
        step: Callable[[], object],
        stop: Callable[[], bool],
    ) -> ValidationResult | None:
        scores = segmentation.evaluate(
            predictor_of(training),
            samples,
            training.group,
            per_image=True,
            loss=True,
            step=step,
            stop=stop,
        )
        if scores is None:
            return None
        scored = [one.number for one in worst_first(scores.per_image) if one.miou is not None]
        found = scores.to_json(training.material.class_set)
        return ValidationResult(scores.miou, found | {"images_worst_first": ends(scored)})


def ends(order: list[int]) -> list[int]:
    """Keep the numbers of the worst and the best images, which a report shows."""
    return (
        order if len(order) <= MOST_SHOWN else order[: MOST_SHOWN // 2] + order[-MOST_SHOWN // 2 :]
    )


def reported(findings: Sequence[CheckFinding]) -> list[str]:
    """Raise the first error among findings, and return what is merely odd."""
    for finding in findings:
        if finding.severity == "error":
            raise finding.error()
    return [str(finding) for finding in findings]


def predictor_of(training: Evaluable) -> SegmentationPredictor:
    """Make the segmenter ready, as `drn eval` does, for what it is to be shown now."""
    device, kind = training.group.device, autocast_type(training.precision)
    return SegmentationPredictor(
        network=for_inference(training.judged, device, exact=kind is None).scores,
        statistics=training.material.statistics,
        class_set=training.material.class_set,
        device=device,
        view=training.recipe.eval,
        autocast=kind,
        tiles=training.tiles,
    )


class Classification:
    """Class folders; top-1 and top-5."""

    def find_material(self, recipe: Recipe) -> DataBundle:
        folder = FolderDataset.open(recipe.data.root)
        found = len(folder.folders)
        if found != recipe.data.classes:
            raise DrnError(
                f"data.classes: {recipe.data.classes}, but {folder.root} has {found} classes",
                f"data.classes={found}",
            )
        left_out = {split: LeftOut() for split in ("train", "val")}
        return DataBundle(
            folder.samples("train", left_out["train"]),
            folder.samples("val", left_out["val"]),
            folder.statistics(),
            ClassSet(folder.names, generic(found).colours),
            folder.root,
            folder.folders,
            tuple(
                f"{folder.root / split}: {what}" for split, what in left_out.items() if what.serious
            ),
        )

    def look_over(self, material: DataBundle) -> list[str]:
        if len(material.class_set) < 2:
            raise DrnError(f"data.classes: {len(material.class_set)}; {TOO_FEW}", ADD_FOLDER)
        for samples in (material.train, material.val):
            reported(find_truncated([sample.image for sample in samples]))
            for sample in spaced(samples, LOOKED_AT):
                if fault := read_file_info(DataFile(sample.image, label=False)).fault:
                    raise fault.error()
        there = {sample.target for sample in material.train}
        absent = [name for n, name in enumerate(material.class_set.names) if n not in there]
        named = few_of(absent, NAMED)
        return [
            *material.left_out,
            *([f"{material.root / 'train'}: no image of {named}: not learned"] if absent else []),
        ]

    def dataset(self, recipe: Recipe, material: DataBundle, *, aloud: bool) -> Dataset[Any]:
        crop = ResizedCrop(recipe.augment.crop, recipe.augment.flip)
        return ClassificationSet(material.train, crop, recipe.train.seed)

    def validate(
        self,
        training: Evaluable,
        samples: Sequence[Any],
        step: Callable[[], object],
        stop: Callable[[], bool],
    ) -> ValidationResult | None:
        scores = classification.score(
            classifier_of(training),
            samples,
            training.group,
            per_image=True,
            loss=True,
            step=step,
            stop=stop,
        )
        if scores is None:
            return None
        order = [one.number for one in classification.worst_images(scores.per_image)]
        return ValidationResult(scores.top1, scores.to_json() | {"images_worst_first": ends(order)})


def classifier_of(training: Evaluable) -> ClassificationPredictor:
    """Make the classifier ready, as `drn eval` does, for what it is to be shown now."""
    device, kind = training.group.device, autocast_type(training.precision)
    model = for_inference(training.judged, device, exact=kind is None)
    return ClassificationPredictor(
        network=model,
        maps=model.scores,
        statistics=training.material.statistics,
        names=training.material.class_set.names,
        folders=training.material.folders,
        device=device,
        crop=training.recipe.augment.crop,
        resize=training.recipe.eval.resize,
        autocast=kind,
    )


def _cache(recipe: Recipe, material: DataBundle, *, aloud: bool) -> DecodedCache | None:
    """Open the cache that the recipe asks for, and say what it takes, or why there is none."""
    data = recipe.data
    if data.cache == "none":
        return None
    folder = Path(data.cache_folder or Path(data.lists or data.root) / CACHE_FOLDER)
    opened = open_cache(data.cache, Path(data.root), folder, material.train)
    if aloud:
        log.log(logging.WARNING if opened.refused else logging.INFO, opened.message)
    return opened.cache
