"""Matching class folders to the classes of a network."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from drn_cli.data.class_folders import ClassSample, FolderDataset
from drn_cli.data.classes import imagenet
from drn_cli.data.folders import IMAGENET
from drn_cli.errors import DrnError
from drn_cli.evaluation.class_index import class_index, remap
from drn_cli.inference.classifier import ClassificationPredictor

WNIDS, NAMES = tuple(imagenet()), tuple(imagenet().values())
# The ten classes of Imagenette and their published class indices in ImageNet.
IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


def network(
    names: Sequence[str], folders: Sequence[str] | None = None, *, named: bool = True
) -> ClassificationPredictor:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    return ClassificationPredictor(
        network=never,
        maps=never,
        statistics=IMAGENET,
        names=tuple(names),
        folders=None if folders is None else tuple(folders),
        named=named,
        device=torch.device("cpu"),
    )


def folder(folders: Sequence[str], names: Sequence[str] | None = None) -> FolderDataset:
    return FolderDataset(Path("data"), tuple(folders), tuple(names or folders))


def test_subset_of_imagenet_is_matched_by_folder_name() -> None:
    assert class_index(folder(tuple(IMAGENETTE)), network(NAMES, WNIDS)) == (*IMAGENETTE.values(),)


def test_folders_are_matched_by_class_name() -> None:
    """Folders with the names of the classes, and folders that info.json gives class names."""
    for data in (folder(["tench", "parachute"]), folder(["0", "1"], ["tench", "parachute"])):
        assert class_index(data, network(NAMES, WNIDS)) == (0, 701)
        assert class_index(data, network(NAMES)) == (0, 701)


def test_folder_names_take_precedence_over_class_names() -> None:
    data = folder(["a", "b"], ["one", "two"])
    assert class_index(data, network(["two", "one"], ["a", "b"])) == (0, 1)


def test_classes_in_another_order_are_matched() -> None:
    theirs = network(["x", "y", "z"], ["c", "a", "b"])
    assert class_index(folder(["a", "b", "c"]), theirs) == (1, 2, 0)


def test_repeated_class_names_are_not_matched() -> None:
    """ImageNet has two classes named crane."""
    theirs = network(["crane", "crane", "tench"], ["n1", "n2", "n3"])
    with pytest.raises(DrnError, match="2 of 2 classes unknown to the network: crane, tench"):
        class_index(folder(["crane", "tench"]), theirs)
    with pytest.raises(DrnError, match="data: several classes of the network are named crane"):
        class_index(folder(["crane", "tench"]), network(theirs.names))
    assert class_index(folder(["n2", "n3"]), theirs) == (1, 2)


def test_remap_replaces_targets() -> None:
    samples = [ClassSample(Path(f"{n}.png"), n % 3) for n in range(5)]
    found = remap(samples, (7, 2, 4))
    assert [one.target for one in found] == [7, 2, 4, 7, 2]
    assert [one.image for one in found] == [one.image for one in samples]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["n01440764", "n99999999"],
            "data: 1 of 2 classes unknown to the network: n99999999 "
            "(its 1000 classes are n01440764, n01443537, n01484850 and 997 more)",
        ),
        (
            ["cat", "dog", "n01440764", "fish", "bird"],
            "data: 4 of 5 classes unknown to the network: cat, dog, fish and 1 more "
            "(its 1000 classes are n01440764, n01443537, n01484850 and 997 more)",
        ),
    ],
)
def test_unknown_classes_are_named(folders: list[str], message: str) -> None:
    with pytest.raises(DrnError) as caught:
        class_index(folder(folders), network(NAMES, WNIDS))
    assert str(caught.value) == message


def test_equal_number_of_classes_is_not_a_match() -> None:
    with pytest.raises(DrnError, match=r"1 of 2 classes unknown to the network: dog"):
        class_index(folder(["a", "dog"]), network(["a", "b"], ["a", "b"]))


def test_unknown_class_name_is_named_instead_of_its_folder() -> None:
    """The network has no folder names."""
    data = folder(["n1", "n2"], ["cat", "dog"])
    with pytest.raises(DrnError, match="1 of 2 classes unknown to the network: dog"):
        class_index(data, network(["cat", "fish", "bird"]))


def test_network_without_class_names_is_matched_in_sorted_order_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = network(["class 0", "class 1", "class 2"], named=False)
    assert class_index(folder(["a", "b", "c"]), theirs) == (0, 1, 2)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "data: the network has no class names; its 3 classes are assumed to be these folders in "
        "sorted order"
    )


def test_network_without_class_names_and_another_number_of_classes_is_an_error() -> None:
    theirs = network(["class 0", "class 1", "class 2"], named=False)
    with pytest.raises(DrnError, match="has 2 classes, the network has 3 and no class names"):
        class_index(folder(["a", "b"]), theirs)


def test_known_class_names_are_not_matched_by_order(caplog: pytest.LogCaptureFixture) -> None:
    assert class_index(folder(["a", "b"]), network(["b", "a"])) == (1, 0)
    assert not caplog.records
