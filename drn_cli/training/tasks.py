"""Segmentation and classification in training: data, checks, validation."""

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

MAX_NAMED = 5  # classes without images in a message
LISTS = ("train_images.txt", "train_labels.txt", "val_images.txt", "val_labels.txt", "info.json")
MAX_RANKED = 200  # images in best.json, for the report
MAX_CHECKED = 32  # images of class folders that are read before training


@dataclass(frozen=True, slots=True)
class DataBundle:
    """The dataset of a run: samples and their metadata."""

    train: Sequence[Any]  # of type `Sample` or `ClassSample`
    val: Sequence[Any]
    statistics: ChannelStats  # mean and standard deviation of the training images
    class_set: ClassSet
    root: Path  # folder that paths are relative to
    folders: tuple[str, ...] | None = None  # folder of each class; classification only
    left_out: tuple[str, ...] = ()  # warnings about files in the folders that are not used
    lists: Path | None = None  # folder of the lists and info.json; segmentation only
    class_pixels: tuple[int, ...] | None = None  # in the training labels; None if not counted

    def fingerprints(self) -> dict[str, str]:
        """Return SHA-256 digests that identify the samples and their order.

        For lists, these are digests of the lists and info.json; for class folders, of the paths.
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
    """Scores of a validation."""

    value: float  # the score that selects the best weights: mIoU or top-1 accuracy
    scores: dict[str, Any]  # all scores, as JSON


class Evaluable(Protocol):
    """The part of `training.setup.TrainState` that validation uses."""

    recipe: Recipe
    group: Group
    data: DataBundle
    precision: Precision
    tiles: TileSizer

    @property
    def eval_model(self) -> DRN:
        """The network, or its EMA."""


class Segmentation:
    """Lists of images and label maps; mIoU."""

    def load_data(self, recipe: Recipe) -> DataBundle:
        """Read the lists of a recipe.

        Raises:
            DrnError: A list or file is missing, or does not fit the recipe.
        """
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

    def check_samples(self, data: DataBundle) -> list[str]:
        """Read some of the files, and return warnings about the data.

        Raises:
            DrnError: An image or label cannot be used.
        """
        classes, lists = data.class_set, data.lists or data.root
        if len(classes) < 2:
            raise DrnError(f"data.classes: {len(classes)}; {TOO_FEW}", ADD_BACKGROUND)
        found = quick_check(
            data.train,
            len(classes),
            names=classes.names,
            counted=data.class_pixels,
            listed=lists / "train_labels.txt",
        )
        warnings = raise_first_error(found + quick_check(data.val, len(classes)))
        if data.class_pixels is None and len(data.train) > WHOLE:
            warnings.append(
                f"{lists / 'info.json'}: no pixel counts per class, so classes without training "
                f"pixels are not detected (run drn data check {data.root})"
            )
        return warnings

    def dataset(self, recipe: Recipe, data: DataBundle, *, verbose: bool) -> Dataset[Any]:
        """Return the dataset of augmented training samples; `verbose` logs cache messages."""
        augment = recipe.augment
        return TrainDataset(
            data.train,
            recipe.data.classes,
            Augmentation(augment.crop, augment.scale, augment.rotate, augment.flip),
            recipe.train.seed,
            _cache(recipe, data, verbose=verbose),
        )

    def validate(
        self,
        training: Evaluable,
        samples: Sequence[Any],
        step: Callable[[], object],
        stop: Callable[[], bool],
    ) -> ValidationResult | None:
        """Score the network on samples that are sharded over all ranks.

        Args:
            training: The run.
            samples: All samples, the same in every rank.
            step: Called after each image.
            stop: Called after each image; if it returns True in any rank, all return None.
        """
        scores = segmentation.evaluate(
            segmentation_predictor(training),
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
        found = scores.to_json(training.data.class_set)
        return ValidationResult(scores.miou, found | {"images_worst_first": worst_and_best(scored)})


def worst_and_best(order: list[int]) -> list[int]:
    """Return the first and the last numbers, at most MAX_RANKED in total."""
    return (
        order if len(order) <= MAX_RANKED else order[: MAX_RANKED // 2] + order[-MAX_RANKED // 2 :]
    )


def raise_first_error(findings: Sequence[CheckFinding]) -> list[str]:
    """Raise the first error among findings; return the warnings."""
    for finding in findings:
        if finding.severity == "error":
            raise finding.error()
    return [str(finding) for finding in findings]


def segmentation_predictor(training: Evaluable) -> SegmentationPredictor:
    """Return a predictor of the current weights, prepared as in `drn eval`."""
    device, dtype = training.group.device, autocast_type(training.precision)
    return SegmentationPredictor(
        network=for_inference(training.eval_model, device, exact=dtype is None).scores,
        statistics=training.data.statistics,
        class_set=training.data.class_set,
        device=device,
        view=training.recipe.eval,
        autocast=dtype,
        tiles=training.tiles,
    )


class Classification:
    """Class folders; top-1 and top-5 accuracy. The methods are those of `Segmentation`."""

    def load_data(self, recipe: Recipe) -> DataBundle:
        folder = FolderDataset.open(recipe.data.root)
        found = len(folder.folders)
        if found != recipe.data.classes:
            raise DrnError(
                f"data.classes: {recipe.data.classes}, but {folder.root} has {found} classes",
                f"set data.classes={found}",
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

    def check_samples(self, data: DataBundle) -> list[str]:
        if len(data.class_set) < 2:
            raise DrnError(f"data.classes: {len(data.class_set)}; {TOO_FEW}", ADD_FOLDER)
        for samples in (data.train, data.val):
            raise_first_error(find_truncated([sample.image for sample in samples]))
            for sample in spaced(samples, MAX_CHECKED):
                if fault := read_file_info(DataFile(sample.image, label=False)).fault:
                    raise fault.error()
        present = {sample.target for sample in data.train}
        absent = [name for n, name in enumerate(data.class_set.names) if n not in present]
        named = few_of(absent, MAX_NAMED)
        return [
            *data.left_out,
            *(
                [f"{data.root / 'train'}: no images of {named} (add some, or remove the class)"]
                if absent
                else []
            ),
        ]

    def dataset(self, recipe: Recipe, data: DataBundle, *, verbose: bool) -> Dataset[Any]:
        crop = ResizedCrop(recipe.augment.crop, recipe.augment.flip)
        return ClassificationSet(data.train, crop, recipe.train.seed)

    def validate(
        self,
        training: Evaluable,
        samples: Sequence[Any],
        step: Callable[[], object],
        stop: Callable[[], bool],
    ) -> ValidationResult | None:
        scores = classification.score(
            classification_predictor(training),
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
        return ValidationResult(
            scores.top1, scores.to_json() | {"images_worst_first": worst_and_best(order)}
        )


Task = Segmentation | Classification


def task_of(recipe: Recipe) -> Task:
    """Return the task of a recipe."""
    return Segmentation() if recipe.task == "segmentation" else Classification()


def classification_predictor(training: Evaluable) -> ClassificationPredictor:
    """Return a predictor of the current weights, prepared as in `drn eval`."""
    device, dtype = training.group.device, autocast_type(training.precision)
    model = for_inference(training.eval_model, device, exact=dtype is None)
    return ClassificationPredictor(
        network=model,
        maps=model.scores,
        statistics=training.data.statistics,
        names=training.data.class_set.names,
        folders=training.data.folders,
        device=device,
        crop=training.recipe.augment.crop,
        resize=training.recipe.eval.resize,
        autocast=dtype,
    )


def _cache(recipe: Recipe, data: DataBundle, *, verbose: bool) -> DecodedCache | None:
    """Open the recipe's cache of decoded samples; log its size, or why it is not used."""
    settings = recipe.data
    if settings.cache == "none":
        return None
    folder = Path(settings.cache_folder or Path(settings.lists or settings.root) / CACHE_FOLDER)
    opened = open_cache(settings.cache, Path(settings.root), folder, data.train)
    if verbose:
        log.log(logging.WARNING if opened.refused else logging.INFO, opened.message)
    return opened.cache
