"""Which of a network's classes a folder of images is, and what is refused."""

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

WNIDS, PEOPLES = tuple(imagenet()), tuple(imagenet().values())
# The ten classes of imagenette, whose numbers in ImageNet are published with it.
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


def test_some_of_imagenets_classes_are_found_by_their_folders() -> None:
    assert class_index(folder(tuple(IMAGENETTE)), network(PEOPLES, WNIDS)) == (
        *IMAGENETTE.values(),
    )


def test_folders_of_other_names_are_found_by_what_people_call_the_classes() -> None:
    """Folders called after the classes, and folders that info.json names so."""
    for data in (folder(["tench", "parachute"]), folder(["0", "1"], ["tench", "parachute"])):
        assert class_index(data, network(PEOPLES, WNIDS)) == (0, 701)
        assert class_index(data, network(PEOPLES)) == (0, 701)


def test_folders_come_before_names() -> None:
    data = folder(["a", "b"], ["one", "two"])
    assert class_index(data, network(["two", "one"], ["a", "b"])) == (0, 1)


def test_classes_in_another_order_are_found() -> None:
    theirs = network(["x", "y", "z"], ["c", "a", "b"])
    assert class_index(folder(["a", "b", "c"]), theirs) == (1, 2, 0)


def test_names_that_two_classes_share_tell_nothing() -> None:
    """ImageNet has two cranes."""
    theirs = network(["crane", "crane", "tench"], ["n1", "n2", "n3"])
    with pytest.raises(DrnError, match="the class crane is none"):
        class_index(folder(["crane", "tench"]), theirs)
    assert class_index(folder(["n2", "n3"]), theirs) == (1, 2)


def test_samples_are_counted_as_the_network_counts() -> None:
    samples = [ClassSample(Path(f"{n}.png"), n % 3) for n in range(5)]
    found = remap(samples, (7, 2, 4))
    assert [one.target for one in found] == [7, 2, 4, 7, 2]
    assert [one.image for one in found] == [one.image for one in samples]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["n01440764", "n99999999"],
            r"data: the class n99999999 is none of the network's 1000, such as n01440764, "
            r"n01443537, n01484850$",
        ),
        (["cat", "dog", "n01440764", "fish"], r"the class cat is none .* \(and 2 more\)$"),
    ],
)
def test_strangers_are_refused_by_name(folders: list[str], message: str) -> None:
    with pytest.raises(DrnError, match=message):
        class_index(folder(folders), network(PEOPLES, WNIDS))


def test_as_many_classes_are_no_reason_to_take_them_for_the_networks() -> None:
    with pytest.raises(DrnError, match="the class dog is none of the network's 2, such as a, b"):
        class_index(folder(["a", "dog"]), network(["a", "b"], ["a", "b"]))


def test_a_stranger_among_names_is_told_by_its_name() -> None:
    """The network knows no folders: what they are called is not what is wrong."""
    data = folder(["n1", "n2"], ["cat", "dog"])
    with pytest.raises(DrnError, match="the class dog is none of the network's 3, such as cat"):
        class_index(data, network(["cat", "fish", "bird"]))


def test_network_without_names_is_taken_in_sorted_order_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = network(["class 0", "class 1", "class 2"], named=False)
    assert class_index(folder(["a", "b", "c"]), theirs) == (0, 1, 2)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "taken for the 3 folders of data in sorted order" in record.getMessage()


def test_network_without_names_and_with_another_number_of_classes_is_refused() -> None:
    theirs = network(["class 0", "class 1", "class 2"], named=False)
    with pytest.raises(DrnError, match="has 2 classes, the network has 3 and does not name them"):
        class_index(folder(["a", "b"]), theirs)


def test_names_that_are_known_are_not_taken_in_order(caplog: pytest.LogCaptureFixture) -> None:
    assert class_index(folder(["a", "b"]), network(["b", "a"])) == (1, 0)
    assert not caplog.records
