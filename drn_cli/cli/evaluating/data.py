"""A network scored on a data folder: label maps or class folders, whichever it answers."""

from pathlib import Path
from typing import TYPE_CHECKING

from drn_cli.cli import console
from drn_cli.cli.evaluating.output import ScoreWriter, report_part
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
    """Score a network on a split of a data folder.

    Args:
        source: The network.
        data: The data folder; by default that of the run's recipe.
        split: Which part of it.
        inference: How images are looked at.
        writer: What is printed and written.
        partial: Whether images that fail, and what else lies in class folders, may be left out.

    Raises:
        DrnError: The network, the folder or a file of it cannot be used.
    """
    from drn_cli.distributed.group import join
    from drn_cli.errors import DrnError
    from drn_cli.inference.opening import open_network

    root, lists = _place(source, data)
    with join() as group:
        network = open_network(source.checkpoint)
        inference.check(network)
        if network.task == "segmentation":
            if partial:
                raise DrnError(
                    "--partial: is for folders to pair and class folders, not for lists",
                    "correct the list or its files, and leave out --partial",
                )
            _segmentation(network, source, root, lists, split, inference, writer, group)
        else:
            _classification(network, source, root, split, inference, writer, group, partial)


def _place(source: "Source", data: Path | None) -> tuple[Path, str | None]:
    """Give the data folder, and that of its lists where it is another."""
    from drn_cli.errors import DrnError

    if data is not None:
        return data, None
    if source.recipe is None:
        raise DrnError(f"{source.checkpoint}: does not say which images", "name them: --data DIR")
    return Path(source.recipe.data.root), source.recipe.data.lists


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
    from drn_cli.inference.loading import load_predictor
    from drn_cli.report.gallery import name_below, segmentation_tile

    folder = ListDataset.open(root, lists)
    samples = folder.samples(split)
    predictor = load_predictor(
        network, group.device, data=folder, view=inference.view, **inference.computing(group.device)
    )
    with console.bar(len(group.shard(samples)), shown=group.is_main) as bar:
        scores = evaluate(predictor, samples, group, per_image=writer.per_image, step=bar.update)
    assert scores is not None  # nobody stops it
    if not group.is_main:
        return

    def show(number: int) -> "Tile":
        image, label = read_pair(samples[number], predictor.classes)
        name = name_below(samples[number].image, folder.root)
        prediction = predictor(image).cpu().numpy()
        return segmentation_tile(name, image, label, prediction, predictor.class_set)

    console.note(f"{source.checkpoint}, {split}: {scores.images} images")
    about = describe(source, network, predictor) | {"split": split}
    view = {
        "scales": list(inference.view.scales),
        "flip": inference.view.flip,
        "tile": inference.view.tile,
    }
    writer.segmentation(scores, predictor.class_set, about | view, show)


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
    from drn_cli.inference.loading import load_classifier

    if split == "test":
        raise DrnError("--split test: class folders have train and val")
    folder = FolderDataset.open(root)
    classifier = load_classifier(
        network,
        group.device,
        read_statistics=folder.recorded_statistics,
        view="10-crop" if inference.ten_crop else "1-crop",
        **source.crop_settings(),
        **inference.computing(group.device),
    )
    left_out = LeftOut()
    samples = remap(folder.samples(split, left_out), class_index(folder, classifier))
    expected = len(samples) + left_out.lost
    if left_out.lost and not partial:
        raise DrnError(
            f"{folder.root / split}: {left_out}",
            f"--partial scores {len(samples)} of {expected}",
        )
    left_out.log(folder.root / split)
    with console.bar(len(group.shard(samples)), shown=group.is_main) as bar:
        scores = score(
            classifier, samples, group, per_image=writer.per_image, partial=partial, step=bar.update
        )
    assert scores is not None  # nothing stops it
    if group.is_main:
        console.note(
            f"{source.checkpoint}, {split}: {scores.images} images of {len(folder.folders)} "
            f"classes, {classifier.view}"
        )
        part = report_part(scores.images, expected, {}, scores.failed, left_out.lost)
        about = describe(source, network, classifier) | {"split": split} | part
        writer.classification(scores, classifier, about | {"view": classifier.view})
    console.exit_if_failed(scores.failed)
