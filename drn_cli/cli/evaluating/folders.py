"""Evaluate a folder of images, or of saved predictions, against a folder of label maps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drn_cli.cli import console
from drn_cli.cli.evaluating.output import ScoreWriter, describe_unpaired, report_partial
from drn_cli.cli.source import InferenceOptions, describe
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from drn_cli.data.classes import ClassSet
    from drn_cli.data.folders import Sample
    from drn_cli.distributed.group import Group
    from drn_cli.evaluation.confusion import SegmentationScores
    from drn_cli.evaluation.folder_pairs import FolderPairs
    from drn_cli.evaluation.label_maps import Ids as DetectedIds
    from drn_cli.evaluation.label_maps import Size
    from drn_cli.evaluation.protocol import EvalProtocol
    from drn_cli.inference.source import Source
    from drn_cli.report.gallery import Tile

Ids = Literal["auto", "label-ids", "train-ids", "class-ids"]

CITYSCAPES_IDS = ("label-ids", "train-ids")
ABOVE = 2  # parents of the folder of label maps that are searched for info.json


@dataclass(frozen=True, slots=True)
class FolderEvaluation:
    """Options of an evaluation of two folders."""

    images: Path  # folder of images or predictions
    labels: Path  # folder of label maps
    size: "Size | None"  # value of `--resize-to`
    labels_hold: Ids  # which ids the label maps hold
    image_suffix: str | None  # suffixes of the names
    label_suffix: str | None
    partial: bool  # whether to leave out unpaired files and those that fail

    def pairs(self) -> "FolderPairs":
        """Pair the files of both folders.

        Raises:
            DrnError: A file has no counterpart or is a broken link, and `partial` is not set.
        """
        from drn_cli.evaluation.folder_pairs import pair_folders

        pairs = pair_folders(self.images, self.labels, self.image_suffix, self.label_suffix)
        hint = f"--partial scores {len(pairs.samples)} of them"
        problem = describe_unpaired(pairs.expected, self.unpaired(pairs))
        if problem and not self.partial:
            raise DrnError(f"{self.images}: {problem}", hint)
        if pairs.left_out and not self.partial:
            raise DrnError("; ".join(pairs.left_out), hint)
        return pairs

    def unpaired(self, pairs: "FolderPairs") -> "dict[str, list[Path]]":
        """Return the unpaired files by the counterpart that they lack."""
        return {
            f"label map in {self.labels}": [
                p.relative_to(self.images) for p in pairs.unpaired_images
            ],
            f"image in {self.images}": [p.relative_to(self.labels) for p in pairs.unpaired_labels],
        }


def score_folder(
    source: "Source", folders: FolderEvaluation, inference: InferenceOptions, writer: ScoreWriter
) -> None:
    """Evaluate a segmenter on a folder of images.

    Raises:
        DrnError: The network or a file cannot be used, or no files match.
    """
    from drn_cli.distributed.group import join
    from drn_cli.evaluation.label_maps import PairReader
    from drn_cli.evaluation.protocol import EvalProtocol, InferenceSettings
    from drn_cli.evaluation.segmentation import evaluate
    from drn_cli.report.gallery import segmentation_tile

    pairs = folders.pairs()
    samples = pairs.samples
    with join() as group:
        network = inference.open(source, "segmentation")
        predictor = inference.segmenter(network, group.device)
        ids = _ids(folders.labels_hold, _labels(samples), predictor.classes)
        read = PairReader(predictor.classes, ids, folders.size or "label")
        with _counting(folders, samples, writer, group) as options:
            scores = evaluate(predictor, samples, group, read=read, **options)
        assert scores is not None  # it is never stopped

        def show(number: int) -> "Tile":
            image, label = read(samples[number])
            name = str(samples[number].image.relative_to(folders.images))
            prediction = predictor(image).cpu().numpy()
            return segmentation_tile(name, image, label, prediction, predictor.class_set)

        if group.is_main:
            assert predictor.normalization is not None
            settings = InferenceSettings(
                network.architecture,
                source.checkpoint,
                inference.view,
                predictor.autocast,
                predictor.normalization,
            )
            protocol = EvalProtocol(folders.images, folders.labels, pairs, ids, read.size, settings)
            about = describe(source, network, predictor)
            _write(scores, predictor.class_set, protocol, folders, writer, show, about)
    console.exit_if_failed(scores.failed)


def score_predictions(
    folders: FolderEvaluation, predictions_hold: Ids, classes: int | None, writer: ScoreWriter
) -> None:
    """Evaluate predictions that were saved as index maps.

    Args:
        folders: The predictions and their label maps.
        predictions_hold: Which ids the predictions hold.
        classes: Number of classes, if it was given.
        writer: Prints and writes the scores.

    Raises:
        DrnError: A file cannot be used, no files match, or the number of classes is unknown.
    """
    from drn_cli.distributed.group import join
    from drn_cli.evaluation.label_maps import MapReader
    from drn_cli.evaluation.protocol import EvalProtocol
    from drn_cli.evaluation.segmentation import compare
    from drn_cli.report.gallery import segmentation_tile

    pairs = folders.pairs()
    samples = pairs.samples
    class_set = _class_set(folders, samples, classes)
    count = len(class_set)
    ids = _ids(folders.labels_hold, _labels(samples), count)
    predicted = _ids(predictions_hold, [sample.image for sample in samples], count)
    read = MapReader(count, ids, predicted, folders.size)
    with join() as group:
        with _counting(folders, samples, writer, group) as options:
            scores = compare(samples, count, group, read=read, **options)

        def show(number: int) -> "Tile":
            prediction, label = read(samples[number])
            name = str(samples[number].image.relative_to(folders.images))
            return segmentation_tile(name, None, label, prediction, class_set)

        if group.is_main:
            protocol = EvalProtocol(
                folders.images, folders.labels, pairs, ids, read.size, predicted
            )
            _write(scores, class_set, protocol, folders, writer, show, {})
    console.exit_if_failed(scores.failed)


@contextmanager
def _counting(
    folders: FolderEvaluation, samples: "Sequence[Sample]", writer: ScoreWriter, group: "Group"
) -> Iterator[dict[str, Any]]:
    """Show a progress bar and yield the options that `evaluate` and `compare` share."""
    with console.bar(len(group.shard(samples)), shown=group.is_main) as bar:
        yield {"per_image": writer.per_image, "partial": folders.partial, "step": bar.update}


def _labels(samples: "Sequence[Sample]") -> list[Path]:
    return [sample.label for sample in samples if sample.label is not None]


def _ids(given: Ids, maps: list[Path], classes: int) -> "DetectedIds":
    from drn_cli.evaluation.label_maps import detect_ids

    return detect_ids(maps, classes) if given == "auto" else given


def _class_set(
    folders: FolderEvaluation, samples: "Sequence[Sample]", classes: int | None
) -> "ClassSet":
    """Return the classes of label maps: as given, of an info.json near them, or of Cityscapes.

    Raises:
        DrnError: The number of classes is unknown.
    """
    from drn_cli.data.classes import cityscapes, generic
    from drn_cli.data.folders import ListDataset
    from drn_cli.evaluation.label_maps import detect_ids

    near = [folders.labels.resolve(), *folders.labels.resolve().parents[:ABOVE]]
    try:
        named = (ListDataset(place, place).named_classes() for place in near)
        found = next((names for names in named if names is not None), None)
    except DrnError:
        if classes is None:
            raise
        found = None  # an unrelated info.json
    if classes is not None:
        return found if found is not None and len(found) == classes else generic(classes)
    if found is not None:
        return found
    maps = _labels(samples)
    if folders.labels_hold in CITYSCAPES_IDS or (
        folders.labels_hold == "auto"
        and (
            all(path.stem.lower().endswith("trainids") for path in maps)
            or detect_ids(maps, len(cityscapes())) == "label-ids"
        )
    ):
        return cityscapes()
    raise DrnError(f"{folders.labels}: unknown number of classes", "pass --classes N")


def _write(
    scores: "SegmentationScores",
    class_set: "ClassSet",
    protocol: "EvalProtocol",
    folders: FolderEvaluation,
    writer: ScoreWriter,
    show: "Callable[[int], Tile]",
    about: dict[str, Any],
) -> None:
    pairs = protocol.pairs
    part = report_partial(
        scores.images, pairs.expected, folders.unpaired(pairs), scores.failed, pairs.lost
    )
    document = about | part | {"protocol": protocol.to_json(scores)}
    writer.segmentation(scores, class_set, document, show)
    if not writer.as_json:
        console.out.print(protocol.text(scores))
