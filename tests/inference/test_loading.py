"""A file that holds a network, and what is known of it where the file does not say."""

from pathlib import Path

import pytest
import torch

from drn_cli.data.classes import camvid, cityscapes
from drn_cli.data.folders import CITYSCAPES, IMAGENET, ListFolder
from drn_cli.errors import DrnError
from drn_cli.inference.loading import load_predictor
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.conversion import to_original
from drn_cli.recipe.schema import Eval

CPU = torch.device("cpu")


def original_file(path: Path, classes: int) -> Path:
    model = create_model("drn_d_22", "segmentation", classes)
    torch.save(to_original(model), path)
    return path


@pytest.mark.parametrize(
    ("classes", "statistics", "names"),
    [(19, CITYSCAPES, cityscapes().names), (11, IMAGENET, camvid().names)],
)
def test_an_original_file_is_known_by_its_number_of_classes(
    tmp_path: Path, classes: int, statistics: object, names: tuple[str, ...]
) -> None:
    predictor = load_predictor(original_file(tmp_path / "a.pth", classes), CPU)
    assert predictor.statistics == statistics
    assert predictor.class_set.names == names


def test_the_data_folder_tells_what_an_original_file_does_not(
    tmp_path: Path, data_folder: Path
) -> None:
    folder = ListFolder.open(data_folder)
    view = Eval(flip=True)
    predictor = load_predictor(original_file(tmp_path / "a.pth", 3), CPU, data=folder, view=view)
    assert predictor.statistics == folder.statistics()
    assert predictor.class_set == folder.class_set(3)
    assert predictor.view is view


def test_the_file_itself_has_the_first_word(tmp_path: Path, data_folder: Path) -> None:
    model = create_model("drn_a_18", "segmentation", 3)
    told = {
        "mean": "[0.1, 0.2, 0.3]",
        "std": "[0.4, 0.5, 0.6]",
        "class_names": '["a", "b", "c"]',
        "colours": "[[1, 2, 3], [4, 5, 6], [7, 8, 9]]",
    }
    save_weights(tmp_path / "a.safetensors", model, told)
    predictor = load_predictor(tmp_path / "a.safetensors", CPU, data=ListFolder.open(data_folder))
    assert predictor.statistics.mean == (0.1, 0.2, 0.3)
    assert predictor.statistics.std == (0.4, 0.5, 0.6)
    assert predictor.class_set.names == ("a", "b", "c")
    assert predictor.class_set.colours[2] == (7, 8, 9)


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", create_model("drn_a_18", "classification", 3))
    with pytest.raises(DrnError, match=r"a\.safetensors: holds a classifier"):
        load_predictor(tmp_path / "a.safetensors", CPU)
