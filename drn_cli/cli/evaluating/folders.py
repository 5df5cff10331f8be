"""A folder of images, or of predictions, scored against a folder of label maps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drn_cli.cli import console
from drn_cli.cli.evaluating.output import ScoreWriter, lacking, report_part
from drn_cli.cli.source import InferenceOptions, describe
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from drn_cli.data.classes import ClassSet
    from drn_cli.data.folders import Sample
    from drn_cli.distributed.group import Group
    from drn_cli.evaluation.confusion import SegmentationScores
    from drn_cli.evaluation.folder_pairs import FolderPairs
    from drn_cli.evaluation.label_maps import Ids as FoundIds
    from drn_cli.evaluation.label_maps import Size
    from drn_cli.evaluation.protocol import EvalProtocol
    from drn_cli.inference.source import Source
    from drn_cli.report.gallery import Tile

Ids = Literal["auto", "label-ids", "train-ids", "class-ids"]

CITYSCAPES_IDS = ("label-ids", "train-ids")
ABOVE = 2  # folders above the label maps where info.json is looked for


@dataclass(frozen=True, slots=True)
class FolderEvaluation:
    """Two folders and how they belong together.

    Attributes:
        images: Images or predictions.
        labels: Their label maps.
        size: As `--resize-to` says it.
        labels_hold: Which ids the label maps hold.
        image_suffix, label_suffix: What names end with.
        partial: Whether files without a counterpart, and those that fail, may be left out.
    """

    images: Path
    labels: Path
    size: "Size | None"
    labels_hold: Ids
    image_suffix: str | None
    label_suffix: str | None
    partial: bool

    def pairs(self) -> "FolderPairs":
        """Find what belongs together, and tell what has to be left out.

        Raises:
            DrnError: A file has no counterpart, and that was not allowed.
        """
        from drn_cli.evaluation.folder_pairs import pair_folders

        pairs = pair_folders(self.images, self.labels, self.image_suffix, self.label_suffix)
        hint = f"--partial scores {len(pairs.samples)} of them"
        problem = lacking(pairs.expected, self.lone(pairs))
        if problem and not self.partial:
            raise DrnError(f"{self.images}: {problem}", hint)
        if pairs.left_out and not self.partial:
            raise DrnError("; ".join(pairs.left_out), hint)
        return pairs

    def lone(self, pairs: "FolderPairs") -> "dict[str, list[Path]]":
        """Name the files without a counterpart by what they lack."""
        return {
            f"label map in {self.labels}": [
                p.relative_to(self.images) for p in pairs.images_without_label
            ],
            f"image in {self.images}": [
                p.relative_to(self.labels) for p in pairs.labels_without_image
            ],
        }


def score_folder(
    source: "Source", folders: FolderEvaluation, inference: InferenceOptions, writer: ScoreWriter
) -> None:
    """Score what a network makes of any folder of images.

    Raises:
        DrnError: The network or a file cannot be used, or nothing belongs together.
    """
    from drn_cli.distributed.group import join
    from drn_cli.evaluation.label_maps import PairReader
    from drn_cli.evaluation.protocol import EvalProtocol, InferenceSettings
    from drn_cli.evaluation.segmentation import evaluate
    from drn_cli.inference.loading import load_predictor
    from drn_cli.inference.opening import open_network
    from drn_cli.report.gallery import segmentation_tile

    pairs = folders.pairs()
    samples = pairs.samples
    with join() as group:
        network = open_network(source.checkpoint, "segmentation")
        inference.check(network)
        computing = inference.computing(group.device)
        predictor = load_predictor(network, group.device, view=inference.view, **computing)
        ids = _ids(folders.labels_hold, _labels(samples), predictor.classes)
        read = PairReader(predictor.classes, ids, folders.size or "label")
        with _counting(folders, samples, writer, group) as options:
            scores = evaluate(predictor, samples, group, read=read, **options)
        assert scores is not None  # nothing stops it

        def show(number: int) -> "Tile":
            image, label = read(samples[number])
            name = str(samples[number].image.relative_to(folders.images))
            prediction = predictor(image).cpu().numpy()
            return segmentation_tile(name, image, label, prediction, predictor.class_set)

        if group.is_main:
            assert predictor.normalization is not None
            seen = InferenceSettings(
                network.architecture,
                source.checkpoint,
                inference.view,
                computing["autocast"],
                predictor.normalization,
            )
            protocol = EvalProtocol(folders.images, folders.labels, pairs, ids, read.size, seen)
            about = describe(source, network, predictor)
            _tell(scores, predictor.class_set, protocol, folders, writer, show, about)
    console.exit_if_failed(scores.failed)


def score_predictions(
    folders: FolderEvaluation, predictions_hold: Ids, classes: int | None, writer: ScoreWriter
) -> None:
    """Score predictions that were saved as index maps; no network is needed.

    Args:
        folders: The predictions and their label maps.
        predictions_hold: Which ids the predictions hold.
        classes: Number of classes, if it is told.
        writer: What is told.

    Raises:
        DrnError: A file cannot be used, nothing belongs together, or nobody says the classes.
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
            _tell(scores, class_set, protocol, folders, writer, show, {})
    console.exit_if_failed(scores.failed)


@contextmanager
def _counting(
    folders: FolderEvaluation, samples: "Sequence[Sample]", writer: ScoreWriter, group: "Group"
) -> Iterator[dict[str, Any]]:
    """Show a bar; yield the options that scoring a network and comparing predictions share."""
    with console.bar(len(group.shard(samples)), shown=group.is_main) as bar:
        yield {"per_image": writer.per_image, "partial": folders.partial, "step": bar.update}


def _labels(samples: "Sequence[Sample]") -> list[Path]:
    return [sample.label for sample in samples if sample.label is not None]


def _ids(told: Ids, maps: list[Path], classes: int) -> "FoundIds":
    from drn_cli.evaluation.label_maps import detect_ids

    return detect_ids(maps, classes) if told == "auto" else told


def _class_set(
    folders: FolderEvaluation, samples: "Sequence[Sample]", classes: int | None
) -> "ClassSet":
    """Find the classes of label maps: as told, by an info.json above them, or those of Cityscapes.

    Raises:
        DrnError: Nothing says how many there are.
    """
    from drn_cli.data.classes import cityscapes, generic

    found = _named_classes(folders.labels) if classes is None else None
    if found is not None:
        return found
    if classes is not None:
        with suppress(DrnError):  # an info.json that is of something else
            found = _named_classes(folders.labels)
        return found if found is not None and len(found) == classes else generic(classes)
    if folders.labels_hold in CITYSCAPES_IDS or (
        folders.labels_hold == "auto" and _are_of_cityscapes(_labels(samples))
    ):
        return cityscapes()
    raise DrnError(
        f"{folders.labels}: nothing says how many classes there are", "say it: --classes N"
    )


def _named_classes(labels: Path) -> "ClassSet | None":
    from drn_cli.data.folders import ListDataset

    near = [labels.resolve(), *labels.resolve().parents[:ABOVE]]
    named = (ListDataset(place, place).named_classes() for place in near)
    return next((classes for classes in named if classes is not None), None)


def _are_of_cityscapes(maps: list[Path]) -> bool:
    """Tell by names or values whether maps hold Cityscapes' ids of either kind."""
    from drn_cli.data.classes import cityscapes
    from drn_cli.evaluation.label_maps import detect_ids

    if all(path.stem.lower().endswith("trainids") for path in maps):
        return True
    return detect_ids(maps, len(cityscapes())) == "label-ids"


def _tell(
    scores: "SegmentationScores",
    class_set: "ClassSet",
    protocol: "EvalProtocol",
    folders: FolderEvaluation,
    writer: ScoreWriter,
    show: "Callable[[int], Tile]",
    about: dict[str, Any],
) -> None:
    pairs = protocol.pairs
    part = report_part(
        scores.images, pairs.expected, folders.lone(pairs), scores.failed, pairs.lost
    )
    document = about | part | {"protocol": protocol.to_json(scores)}
    writer.segmentation(scores, class_set, document, show)
    if not writer.as_json:
        console.out.print(protocol.text(scores))
