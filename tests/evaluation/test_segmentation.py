"""Scoring a network on a folder: the numbers, and what they do not depend on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from drn_cli.data.classes import generic
from drn_cli.data.folders import IMAGENET, ListFolder
from drn_cli.data.images import read_label
from drn_cli.distributed.group import Group
from drn_cli.evaluation.segmentation import evaluate
from drn_cli.inference.predictor import Predictor
from drn_cli.networks import create_model

ALONE = Group(0, 1, torch.device("cpu"))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def predictor(network: object) -> Predictor:
    return Predictor(
        network=network, statistics=IMAGENET, class_set=generic(3), device=torch.device("cpu")
    )


def always_class_one(x: Tensor) -> Tensor:
    return torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, *x.shape[-2:])


def test_scores_are_those_of_the_label_maps(data_folder: Path) -> None:
    samples = ListFolder.open(data_folder).samples("val")
    labels = np.stack([read_label(sample.label) for sample in samples if sample.label])
    seen = []
    scores = evaluate(predictor(always_class_one), samples, ALONE, step=lambda: seen.append(1))
    share = (labels == 1).sum() / (labels != 255).sum()
    assert scores.iou == (0, pytest.approx(share), 0)
    assert scores.pixel_accuracy == pytest.approx(share)
    assert scores.images == len(seen) == len(samples)


def test_number_of_threads_changes_nothing_and_is_put_back(
    data_folder: Path, threads: None
) -> None:
    samples = ListFolder.open(data_folder).samples("val")
    torch.manual_seed(0)
    model = create_model("drn_d_22", "segmentation", 3).eval()
    used = set()

    def network(x: Tensor) -> Tensor:
        used.add(torch.get_num_threads())
        return model(x)

    matrices = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        matrices.append(evaluate(predictor(network), samples, ALONE).matrix)
        assert torch.get_num_threads() == number
    assert used == {1}, "a picture belongs to one thread"
    assert (matrices[0] == matrices[1]).all()
    assert (matrices[0] == matrices[2]).all()


def test_broken_label_is_an_error_and_the_threads_are_put_back(
    own_data_folder: Path, threads: None
) -> None:
    samples = ListFolder.open(own_data_folder).samples("val")
    assert samples[2].label is not None
    samples[2].label.write_bytes(b"no picture")
    torch.set_num_threads(2)
    with pytest.raises(Exception, match=f"{samples[2].label.name}: not a picture"):
        evaluate(predictor(always_class_one), samples, ALONE)
    assert torch.get_num_threads() == 2
