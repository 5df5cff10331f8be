"""Evaluate a network on a split of a data folder: label maps or class folders."""

from pathlib import Path
from typing import TYPE_CHECKING

from drn_cli.cli import console
from drn_cli.cli.evaluating.output import ScoreWriter, report_partial
from drn_cli.cli.source import InferenceOptions, describe

if TYPE_CHECKING:
    from drn_cli.data.folders import Split
    from drn_cli.distributed.group import Group
    from drn_cli.inference.opening import OpenedNetwork
    from drn_cli.inference.source import Source
    from drn_cli.report.gallery import Tile


def score_data(
    source: "Source",
    data: Path | None,
    split: "Split",
    inference: InferenceOptions,
    writer: ScoreWriter,
    *,
    partial: bool = False,
) -> None:
    """Evaluate a network on a split of a data folder.

    Args:
        source: The network.
        data: The data folder; by default that of the run's recipe.
        split: The split to evaluate.
        inference: Options of inference.
        writer: Prints and writes the scores.
        partial: Whether to leave out files of class folders that fail or cannot be used.

    Raises:
        DrnError: The network, the folder or one of its files cannot be used.
    """
    from drn_cli.distributed.group import join
    from drn_cli.errors import DrnError

    lists = None
    if data is None:
        if source.recipe is None:
            raise DrnError(
                f"{source.checkpoint}: not part of a run whose recipe names a data folder",
                "pass --data DIR",
            )
        data, lists = Path(source.recipe.data.root), source.recipe.data.lists
    with join() as group:
        network = inference.open(source)
        if network.task == "segmentation":
            if partial:
                raise DrnError(
                    "--partial: not available for data folders with lists",
                    "correct the list or its files, and leave out --partial",
                )
            _segmentation(network, source, data, lists, split, inference, writer, group)
        else:
            _classification(network, source, data, split, inference, writer, group, partial)


def _segmentation(
    network: "OpenedNetwork",
    source: "Source",
    root: Path,
    lists: str | None,
    split: "Split",
    inference: InferenceOptions,
    writer: ScoreWriter,
    group: "Group",
) -> None:
    from drn_cli.data.decoding import read_pair
    from drn_cli.data.folders import ListDataset
    from drn_cli.evaluation.segmentation import evaluate
    from drn_cli.report.gallery import name_below, segmentation_tile

    folder = ListDataset.open(root, lists)
    samples = folder.samples(split)
    predictor = inference.segmenter(network, group.device, data=folder)
    with console.bar(len(group.shard(samples)), shown=group.is_main) as bar:
        scores = evaluate(predictor, samples, group, per_image=writer.per_image, step=bar.update)
    assert scores is not None  # it is never stopped
    if not group.is_main:
        return

    def show(number: int) -> "Tile":
        image, label = read_pair(samples[number], predictor.classes)
        name = name_below(samples[number].image, folder.root)
        prediction = predictor(image).cpu().numpy()
        return segmentation_tile(name, image, label, prediction, predictor.class_set)

    console.note(f"{source.checkpoint}, {split}: {scores.images} images")
    about = describe(source, network, predictor) | {"split": split}
    view = inference.view
    about |= {"scales": list(view.scales), "flip": view.flip, "tile": view.tile}
    writer.segmentation(scores, predictor.class_set, about, show)


def _classification(
    network: "OpenedNetwork",
    source: "Source",
    root: Path,
    split: "Split",
    inference: InferenceOptions,
    writer: ScoreWriter,
    group: "Group",
    partial: bool,
) -> None:
    from drn_cli.data.class_folders import FolderDataset
    from drn_cli.data.file_search import LeftOut
    from drn_cli.errors import DrnError
    from drn_cli.evaluation.class_index import class_index, remap
    from drn_cli.evaluation.classification import score

    if split == "test":
        raise DrnError("--split test: class folders have the splits train and val only")
    folder = FolderDataset.open(root)
    classifier = inference.classifier(
        network, group.device, read_statistics=folder.recorded_statistics, **source.crop_settings()
    )
    left_out = LeftOut()
    samples = remap(folder.samples(split, left_out), class_index(folder, classifier))
    expected = len(samples) + left_out.lost
    if left_out.lost and not partial:
        raise DrnError(
            f"{folder.root / split}: {left_out}", f"--partial scores {len(samples)} of {expected}"
        )
    left_out.log(folder.root / split)
    with console.bar(len(group.shard(samples)), shown=group.is_main) as bar:
        scores = score(
            classifier, samples, group, per_image=writer.per_image, partial=partial, step=bar.update
        )
    assert scores is not None  # it is never stopped
    if group.is_main:
        console.note(
            f"{source.checkpoint}, {split}: {scores.images} images of {len(folder.folders)} "
            f"classes, {classifier.view}"
        )
        part = report_partial(scores.images, expected, {}, scores.failed, left_out.lost)
        about = describe(source, network, classifier) | {"split": split} | part
        writer.classification(scores, classifier, about | {"view": classifier.view})
    console.exit_if_failed(scores.failed)
