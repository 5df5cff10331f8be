"""Metadata of exported files."""

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
from drn_cli.export.facts import export_metadata
from drn_cli.export.form import ExportConfig
from drn_cli.inference.metadata import read_class_set, read_strings
from drn_cli.inference.opening import TrainedNetwork, read_network
from drn_cli.inference.source import Source, find_source
from drn_cli.networks.catalog import Task
from drn_cli.networks.published import PUBLISHED


def metadata_of(run: Path, licence: str | None = None, **form: Any) -> dict[str, str]:
    source = find_source(run)
    network = read_network(source.checkpoint)
    return export_metadata(network, source, ExportConfig(**{"format": "onnx"} | form), licence)[0]


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_describes_inputs_outputs_and_classes(exports: Exports, task: Task) -> None:
    metadata = metadata_of(exports.run(task))
    assert (metadata["arch"], metadata["task"], metadata["classes"]) == ("drn_a_18", task, "3")
    assert read_class_set(metadata) == CLASS_SET
    assert json.loads(metadata["mean"]) == list(STATISTICS.mean)
    assert json.loads(metadata["std"]) == list(STATISTICS.std)
    assert (metadata["input"], metadata["outputs"]) == ("normalised", "logits,scores")
    assert metadata["drn"] == drn_cli.__version__
    assert metadata["precision"] == "float32"
    assert "size" not in metadata
    if task == "classification":
        assert read_strings(metadata, "class_folders") == FOLDERS
        assert (metadata["crop"], metadata["resize"]) == (str(CROP), str(RESIZE))
    else:
        assert not {"class_folders", "crop", "resize"} & metadata.keys()


def test_describes_the_options(exports: Exports) -> None:
    options: dict[str, Any] = {"argmax": True, "normalize": True, "size": (48, 64)}
    metadata = metadata_of(exports.run(), precision="float16", **options)
    assert (metadata["input"], metadata["outputs"], metadata["size"]) == (
        "uint8",
        "classes",
        "48x64",
    )
    assert metadata["precision"] == "float16"


@pytest.mark.parametrize("format_", ["fyu", "safetensors"])
def test_weight_files_have_no_inputs_or_outputs(exports: Exports, format_: str) -> None:
    run = exports.run()
    assert not {"input", "outputs", "size"} & metadata_of(run, format=format_).keys()
    network = read_network(run / "checkpoints" / "best.safetensors")
    strings = dict(network.metadata) | {"input": "uint8", "outputs": "classes", "size": "224x224"}
    network = TrainedNetwork(network.path, network.model, strings, verified=True)
    metadata = export_metadata(network, find_source(run), ExportConfig(format=format_), None)[0]
    assert not {"input", "outputs", "size"} & metadata.keys()


def test_provenance_has_no_paths_of_this_machine(exports: Exports) -> None:
    run = exports.run()
    metadata = metadata_of(run)
    provenance = json.loads(metadata["provenance"])
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
    whole = json.dumps(metadata)
    for place in (SECRET, str(run.parent), platform.node()):
        assert place not in whole


def test_a_file_without_run_has_no_recipe(exports: Exports, tmp_path: Path) -> None:
    file = tmp_path / "alone.safetensors"
    file.symlink_to(exports.run("classification") / "checkpoints" / "best.safetensors")
    metadata = metadata_of(file)
    assert not {"recipe", "training"} & json.loads(metadata["provenance"]).keys()
    assert not {"crop", "resize"} & metadata.keys()


def test_licence_of_the_option_comes_before_that_of_the_file(exports: Exports) -> None:
    run = exports.run()
    assert metadata_of(run)["licence"] == "not stated"
    assert metadata_of(run, "MIT")["licence"] == "MIT"
    network = read_network(run / "checkpoints" / "best.safetensors")
    config = ExportConfig(format="onnx")
    source = find_source(run)
    written = TrainedNetwork(network.path, network.model, {"licence": "CC0"}, verified=True)
    assert export_metadata(written, source, config, None)[0]["licence"] == "CC0"
    assert export_metadata(written, source, config, "MIT")[0]["licence"] == "MIT"


def test_guessed_mean_and_std_stay_marked(exports: Exports) -> None:
    """With the text of the source."""
    run = exports.run()
    network = read_network(run / "checkpoints" / "best.safetensors")
    strings = {**network.metadata, "mean_std_guess": "imagenet"}
    marked = TrainedNetwork(network.path, network.model, strings, verified=True)
    metadata = export_metadata(marked, find_source(run), ExportConfig(format="onnx"), None)[0]
    assert metadata["mean_std_guess"] == "imagenet"


def test_published_weights_keep_their_licence(exports: Exports, tmp_path: Path) -> None:
    known = PUBLISHED[0]
    file = tmp_path / known.name
    file.symlink_to(exports.run() / "checkpoints" / "best.safetensors")
    assert metadata_of(file)["licence"] == known.licence != "not stated"


@pytest.mark.parametrize("classes", [3, 1000])
def test_default_class_names_of_classifiers(tmp_path: Path, classes: int) -> None:
    file = tmp_path / "weights.pth"
    file.touch()
    network = TrainedNetwork(file, lively("classification", classes=classes), {}, verified=True)
    metadata, statistics = export_metadata(
        network, Source(file, None), ExportConfig(format="onnx"), None
    )
    assert statistics == IMAGENET
    if classes == 1000:
        assert read_strings(metadata, "class_names") == tuple(imagenet().values())
        assert read_strings(metadata, "class_folders") == tuple(imagenet())
    else:
        assert read_strings(metadata, "class_names") == ("class 0", "class 1", "class 2")
        assert "class_folders" not in metadata
