"""Loading networks and their metadata from all checkpoint formats."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import ALONE, prepare_in
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.classes import ClassSet, camvid, cityscapes, imagenet
from drn_cli.data.folders import CITYSCAPES, IMAGENET, ChannelStats, ListDataset
from drn_cli.errors import DrnError
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.metadata import read_channel_stats, read_strings, to_metadata
from drn_cli.inference.opening import read_network
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.conversion import COUNTER, to_original_keys
from drn_cli.networks.models import DRN
from drn_cli.recipe.schema import Eval
from drn_cli.training.checkpoint import TrainProgress, save_checkpoint

CPU = torch.device("cpu")
SEEN = 7  # batches, as the counters of the models below say
OWN = ChannelStats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
COLOURS = ClassSet(("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))


def model_of(task: Any, classes: int = 3, arch: str = "drn_a_18") -> DRN:
    torch.manual_seed(0)
    model = create_model(arch, task, classes).eval()
    for name, buffer in model.named_buffers():
        if name.endswith(COUNTER):
            buffer.fill_(SEEN)
        elif name.endswith("var"):
            buffer.uniform_(0.5, 1.5)
        else:
            buffer.normal_(0, 0.1)
    return model


def original_file(path: Path, model: DRN) -> Path:
    torch.save(to_original_keys(model), path)
    return path


def wrapped(path: Path, model: DRN) -> Path:
    """Write a training checkpoint of the original code: DataParallel keys, and an epoch."""
    tensors = {f"module.{key}": value for key, value in to_original_keys(model).items()}
    torch.save({"epoch": 3, "arch": model.arch, "state_dict": tensors}, path)
    return path


def own_file(path: Path, model: DRN) -> Path:
    folders = ["n1", "n2", "n3"] if model.task == "classification" else None
    save_weights(path, model, to_metadata(model, OWN, COLOURS, folders))
    return path


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill uninitialized memory with NaN and the largest integers."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("write", [own_file, original_file, wrapped])
def test_reads_all_checkpoint_formats(
    tmp_path: Path, poisoned: None, task: Any, write: Callable[[Path, DRN], Path]
) -> None:
    # In the original code only family D has a convolution as `fc`.
    model = model_of(task, arch="drn_a_18" if write is own_file else "drn_d_22")
    state = torch.get_rng_state()
    found = read_network(write(tmp_path / "file", model), task)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.task, found.model.classes, found.model.arch) == (task, 3, model.arch)
    assert not any(module.training for module in found.model.modules())
    expected = model.state_dict()
    if write is not own_file:
        expected |= {k: torch.tensor(0) for k in expected if k.endswith(COUNTER)}
    torch.testing.assert_close(found.model.state_dict(), expected, rtol=0, atol=0)


def test_reads_last_checkpoint_of_run(tmp_path: Path, recipe_file: Path) -> None:
    training = prepare_in(ALONE, recipe_file, ())
    save_checkpoint(tmp_path / "last.pt", training, TrainProgress(), 0.0)
    found = read_network(tmp_path / "last.pt")
    assert found.task == "segmentation"
    torch.testing.assert_close(found.model.state_dict(), training.model.state_dict())
    assert read_strings(found.metadata, "class_names") == ("red", "green", "blue")
    assert read_channel_stats(found.metadata, IMAGENET) == training.data.statistics != IMAGENET


@pytest.mark.parametrize(
    ("task", "needed", "message"),
    [
        ("segmentation", "classification", "is a segmentation network, not a classifier"),
        ("classification", "segmentation", "is a classifier, not a segmentation network"),
    ],
)
def test_wrong_task_is_refused(tmp_path: Path, task: Any, needed: Any, message: str) -> None:
    path = own_file(tmp_path / "a.safetensors", model_of(task))
    load = load_classifier if needed == "classification" else load_predictor
    for read in (lambda: read_network(path, needed), lambda: load(path, CPU)):
        with pytest.raises(DrnError, match=rf"a\.safetensors: {message}"):
            read()


@pytest.mark.parametrize("head", [True, False])
def test_checkpoint_without_task_head_is_refused(tmp_path: Path, head: bool) -> None:
    state = model_of("classification").state_dict()
    kept = {key: value for key, value in state.items() if head or key.startswith("backbone.")}
    torch.save(kept, tmp_path / "a.pth")
    with pytest.raises(
        DrnError, match=r"a\.pth: no task head: backbone weights, or task metadata missing"
    ) as raised:
        read_network(tmp_path / "a.pth")
    assert "drn models import FILE --task TASK" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("classes", "statistics", "names"),
    [(19, CITYSCAPES, cityscapes().names), (11, IMAGENET, camvid().names)],
)
def test_original_checkpoint_classes_from_their_number(
    tmp_path: Path, classes: int, statistics: object, names: tuple[str, ...]
) -> None:
    model = model_of("segmentation", classes, "drn_d_22")
    predictor = load_predictor(original_file(tmp_path / "a.pth", model), CPU)
    assert predictor.statistics == statistics
    assert predictor.class_set.names == names


def test_more_than_256_classes_are_refused(tmp_path: Path) -> None:
    for classes in (256, 257):
        save_weights(tmp_path / f"{classes}", create_model("drn_a_18", "segmentation", classes))
    assert load_predictor(tmp_path / "256", CPU).classes == 256
    with pytest.raises(DrnError, match=r"257: 257 classes; index maps hold at most 256 \(use"):
        load_predictor(tmp_path / "257", CPU)


def test_data_folder_completes_original_checkpoint(tmp_path: Path, data_folder: Path) -> None:
    folder = ListDataset.open(data_folder)
    view = Eval(flip=True)
    path = original_file(tmp_path / "a.pth", model_of("segmentation", arch="drn_d_22"))
    predictor = load_predictor(path, CPU, data=folder, view=view)
    assert predictor.statistics == folder.statistics()
    assert predictor.class_set == folder.class_set(3)
    assert predictor.view is view


def test_metadata_of_file_have_priority(tmp_path: Path, data_folder: Path) -> None:
    path = own_file(tmp_path / "a.safetensors", model_of("segmentation"))
    predictor = load_predictor(path, CPU, data=ListDataset.open(data_folder))
    assert predictor.statistics == OWN
    assert predictor.class_set == COLOURS


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["A", "b", "c"], None),
        (
            ["a", "c", "b"],
            "class names differ from those of {path}: 'c' for 'b' (1), 'b' for 'c' (2) (ids are",
        ),
        (["a", "b"], "names 2 classes, {path} has 3 (use a network and a data folder with"),
    ],
)
def test_classes_of_network_and_data_folder_are_compared(
    own_data_folder: Path,
    tmp_path: Path,
    names: list[str],
    problem: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise ids would be compared although they mean other classes."""
    path = own_file(tmp_path / "a.safetensors", model_of("segmentation"))
    info = own_data_folder / "info.json"
    colours = [[n, n, n] for n in range(len(names))]
    info.write_text(
        json.dumps(json.loads(info.read_text()) | {"classes": names, "colours": colours})
    )
    words = ["eval", "--weights", str(path), "--data", str(own_data_folder), "--json"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code == 0) == (len(names) == 3)
    said = [*caplog.messages, *([] if done.exit_code == 0 else [str(done.exception)])]
    expected = [] if problem is None else [f"{info}: {problem.format(path=path)}"]
    assert [line[: len(expected[0])] if expected else line for line in said] == expected


def test_metadata_of_classifier_have_priority(tmp_path: Path) -> None:
    path = own_file(tmp_path / "a.safetensors", model_of("classification"))
    found = load_classifier(path, CPU, read_statistics=lambda: CITYSCAPES)
    assert found.statistics == OWN
    assert (found.names, found.folders, found.named) == (COLOURS.names, ("n1", "n2", "n3"), True)


def test_1000_unnamed_classes_are_imagenet(tmp_path: Path) -> None:
    model = model_of("classification", 1000, "drn_d_22")
    found = load_classifier(original_file(tmp_path / "a.pth", model), CPU)
    assert found.statistics == IMAGENET
    assert (found.names[701], (found.folders or ())[701]) == ("parachute", "n03888257")
    assert (found.names, found.folders) == (tuple(imagenet().values()), tuple(imagenet()))
    assert found.named
    assert (found.crop, found.resize, found.view, found.autocast) == (224, 256, "1-crop", None)


@pytest.mark.parametrize("classes", [3, 19])
def test_unnamed_classes_are_numbered(tmp_path: Path, classes: int) -> None:
    """Only for segmenters 19 classes are those of Cityscapes."""
    model = model_of("classification", classes, "drn_d_22")
    found = load_classifier(
        original_file(tmp_path / "a.pth", model), CPU, read_statistics=lambda: OWN
    )
    assert found.names == tuple(f"class {number}" for number in range(classes))
    assert found.folders is None
    assert not found.named
    assert found.statistics == OWN


def test_classifier_outputs_and_settings(tmp_path: Path) -> None:
    model = model_of("classification")
    network = read_network(own_file(tmp_path / "a.safetensors", model))
    state = torch.get_rng_state()
    settings: dict[str, Any] = {
        "crop": 40,
        "resize": 50,
        "view": "10-crop",
        "autocast": torch.bfloat16,
    }
    found = load_classifier(network, CPU, **settings)
    assert {name: getattr(found, name) for name in settings} == settings
    exact = load_classifier(network, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.randn(2, 3, 68, 60)
    with torch.inference_mode():
        near(exact.network(x), model(x))
        near(exact.maps(x), model.scores(x))
    torch.testing.assert_close(network.model.state_dict(), model.state_dict(), rtol=0, atol=0)


def near(found: Tensor, expected: Tensor) -> None:
    """Compare relative to the largest value, as single scores may be close to zero."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
def test_compiled_network_outputs(tmp_path: Path) -> None:
    network = read_network(own_file(tmp_path / "a.safetensors", model_of("classification")))
    plain, compiled = (load_classifier(network, CPU, compiled=on) for on in (False, True))
    assert all(hasattr(call, "get_compiler_config") for call in (compiled.network, compiled.maps))
    x = torch.randn(1, 3, 64, 64)  # large enough for Winograd convolutions
    with torch.inference_mode():
        near(compiled.maps(x), plain.maps(x))
