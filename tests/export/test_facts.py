"""What an exported file says of itself."""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_networks import CLASS_SET, CROP, FOLDERS, RESIZE, SECRET, STATISTICS, Exports, lively

import drn_cli
from drn_cli.data.classes import imagenet
from drn_cli.data.folders import IMAGENET
from drn_cli.export.facts import describe
from drn_cli.export.form import ExportConfig
from drn_cli.inference.metadata import read_class_set, read_strings
from drn_cli.inference.opening import TrainedNetwork, read_network
from drn_cli.inference.source import Source, find_source
from drn_cli.networks.catalog import Task
from drn_cli.networks.published import PUBLISHED


def described(run: Path, licence: str | None = None, **form: Any) -> dict[str, str]:
    source = find_source(run)
    network = read_network(source.checkpoint)
    return describe(network, source, ExportConfig(**{"format": "onnx"} | form), licence)[0]


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_what_is_needed_to_use_it(exports: Exports, task: Task) -> None:
    told = described(exports.run(task))
    assert (told["arch"], told["task"], told["classes"]) == ("drn_a_18", task, "3")
    assert read_class_set(told) == CLASS_SET
    assert json.loads(told["mean"]) == list(STATISTICS.mean)
    assert json.loads(told["std"]) == list(STATISTICS.std)
    assert (told["input"], told["outputs"]) == ("normalised", "logits,scores")
    assert told["drn"] == drn_cli.__version__
    assert told["precision"] == "float32"
    assert "size" not in told
    if task == "classification":
        assert read_strings(told, "class_folders") == FOLDERS
        assert (told["crop"], told["resize"]) == (str(CROP), str(RESIZE))
    else:
        assert not {"class_folders", "crop", "resize"} & told.keys()


def test_what_was_asked_of_it(exports: Exports) -> None:
    form: dict[str, Any] = {"argmax": True, "normalize": True, "size": (48, 64)}
    told = described(exports.run(), precision="float16", **form)
    assert (told["input"], told["outputs"], told["size"]) == ("uint8", "classes", "48x64")
    assert told["precision"] == "float16"


@pytest.mark.parametrize("format_", ["fyu", "safetensors"])
def test_weights_alone_have_no_input(exports: Exports, format_: str) -> None:
    run = exports.run()
    assert not {"input", "outputs", "size"} & described(run, format=format_).keys()
    network = read_network(run / "checkpoints" / "best.safetensors")
    strings = dict(network.metadata) | {"input": "uint8", "outputs": "classes", "size": "224x224"}
    network = TrainedNetwork(network.path, network.model, strings, verified=True)
    told = describe(network, find_source(run), ExportConfig(format=format_), None)[0]
    assert not {"input", "outputs", "size"} & told.keys()


def test_where_it_comes_from_without_places_on_this_machine(exports: Exports) -> None:
    run = exports.run()
    told = described(run)
    provenance = json.loads(told["provenance"])
    checkpoint = run / "checkpoints" / "best.safetensors"
    assert provenance["checkpoint"] == "best.safetensors"
    assert provenance["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert provenance["exported"].startswith("20")
    assert provenance["exported_with"] == {"drn": drn_cli.__version__, "torch": torch.__version__}
    assert provenance["recipe"]["train"]["epochs"] == 7
    assert provenance["recipe"]["data"]["classes"] == 3
    assert provenance["training"] == {
        "torch": "2.0",
        "seed": 5,
        "data": {"train_images.txt": "ab12"},
    }
    whole = json.dumps(told)
    for place in (SECRET, str(run.parent), platform.node()):
        assert place not in whole


def test_a_lone_file_tells_less(exports: Exports, tmp_path: Path) -> None:
    file = tmp_path / "alone.safetensors"
    file.symlink_to(exports.run("classification") / "checkpoints" / "best.safetensors")
    told = described(file)
    assert not {"recipe", "training"} & json.loads(told["provenance"]).keys()
    assert not {"crop", "resize"} & told.keys()


def test_the_licence_is_the_one_given_or_written_or_published(exports: Exports) -> None:
    run = exports.run()
    assert described(run)["licence"] == "not stated"
    assert described(run, "MIT")["licence"] == "MIT"
    network = read_network(run / "checkpoints" / "best.safetensors")
    form = ExportConfig(format="onnx")
    source = find_source(run)
    written = TrainedNetwork(network.path, network.model, {"licence": "CC0"}, verified=True)
    assert describe(written, source, form, None)[0]["licence"] == "CC0"
    assert describe(written, source, form, "MIT")[0]["licence"] == "MIT"


def test_mean_and_std_that_were_guessed_before_stay_marked(exports: Exports) -> None:
    """In whatever words."""
    run = exports.run()
    network = read_network(run / "checkpoints" / "best.safetensors")
    strings = {**network.metadata, "mean_std_guess": "imagenet"}
    marked = TrainedNetwork(network.path, network.model, strings, verified=True)
    told = describe(marked, find_source(run), ExportConfig(format="onnx"), None)[0]
    assert told["mean_std_guess"] == "imagenet"


def test_published_weights_keep_their_licence(exports: Exports, tmp_path: Path) -> None:
    known = PUBLISHED[0]
    file = tmp_path / known.name
    file.symlink_to(exports.run() / "checkpoints" / "best.safetensors")
    assert described(file)["licence"] == known.licence != "not stated"


@pytest.mark.parametrize("classes", [3, 1000])
def test_classes_that_a_classifiers_file_does_not_name(tmp_path: Path, classes: int) -> None:
    file = tmp_path / "weights.pth"
    file.touch()
    network = TrainedNetwork(file, lively("classification", classes=classes), {}, verified=True)
    told, statistics = describe(network, Source(file, None), ExportConfig(format="onnx"), None)
    assert statistics == IMAGENET
    if classes == 1000:
        assert read_strings(told, "class_names") == tuple(imagenet().values())
        assert read_strings(told, "class_folders") == tuple(imagenet())
    else:
        assert read_strings(told, "class_names") == ("class 0", "class 1", "class 2")
        assert "class_folders" not in told
