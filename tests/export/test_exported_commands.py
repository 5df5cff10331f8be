"""`drn predict`, `eval`, `localize` and `bench` with networks that `drn export` wrote."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_networks import noise
from PIL import Image

from drn_cli.inference.opening import read_network
from drn_cli.networks.conversion import to_original_keys


@pytest.fixture
def result(drn_here):
    """Run `drn` with --json, return its document."""

    def run(*words):
        code, stdout, stderr = drn_here(*words, "--json")
        assert code == 0, stderr
        return json.loads(stdout)

    return run


@pytest.fixture
def predicted(result):
    """Return the index maps and probabilities that `drn predict` writes for two images."""

    def run(weights, *words):
        for number, size in enumerate(((48, 64), (33, 47))):
            Image.fromarray(noise(*size, number)).save(f"{number}.png")
        saved = ("--save", "index,probabilities")
        found = {}
        for entry in result("predict", "0.png", "1.png", "--weights", weights, *saved, *words)[
            "results"
        ]:
            with Image.open(entry["index"]) as index, np.load(entry["probabilities"]) as arrays:
                probabilities = arrays[arrays.files[0]].astype(np.float32)
                found[entry["image"]] = np.array(index), probabilities
        assert len(found) == 2
        return found

    return run


@pytest.mark.parametrize("verified", [True, False])
def test_documents_state_whether_the_weights_had_a_checksum(result, exports, quick, verified):
    model = read_network(exports.run() / "checkpoints" / "best.safetensors").model
    # The older format of PyTorch has no CRC-32.
    weights = to_original_keys(model)
    torch.save(weights, "a.pth", _use_new_zipfile_serialization=verified)
    exported = result("export", "a.pth", "--format", "safetensors", "--out", "a.safetensors")
    report = json.loads(Path("a.safetensors.parity.json").read_text())
    assert exported["comparisons"] == report["comparisons"]
    words = ("--size", 32, "--rounds", 1, "--warmup", 1, "--seconds", 0)
    benched = result("bench", "a.pth", *words)
    assert [one["verified"] for one in (exported, report, benched)] == [verified] * 3


@pytest.mark.parametrize(
    ("format_", "words"), [("onnx", ("--ms", "--flip", "--tile", "64")), ("openvino", ())], ids=str
)
def test_predict_equals_the_checkpoint(predicted, exports, format_, words):
    expected = predicted(exports.run(), *words)
    found = predicted(exports(format=format_), *words)
    for name, (index, probabilities) in expected.items():
        assert (found[name][0] == index).mean() > 0.999
        assert np.abs(found[name][1] - probabilities).max() < 2e-3  # written as float16
        assert len(np.unique(index)) > 1


def test_eval_equals_the_checkpoint(result, exports, data_folder):
    expected, found = (
        result("eval", source, "--data", data_folder)
        for source in (exports.run(), exports(format="onnx"))
    )
    assert found["checkpoint"].endswith("net.onnx")
    assert found["images"] == expected["images"] == 5
    matrices = [np.array(one["confusion_matrix"]) for one in (found, expected)]
    assert matrices[0].sum() == matrices[1].sum()
    assert np.abs(matrices[0] - matrices[1]).sum() <= 0.002 * matrices[1].sum()


@pytest.mark.parametrize(
    "command", [("predict", "--ten-crop"), ("predict",), ("localize",)], ids=" ".join
)
def test_classes_and_boxes_equal_the_checkpoint(result, exports, command):
    Image.fromarray(noise(60, 80)).save("a.png")
    expected, found = (
        result(*command, "a.png", "--weights", source)["results"][0]["classes"]
        for source in (exports.run("classification"), exports("classification", format="onnx"))
    )
    assert [one["class"] for one in found] == [one["class"] for one in expected] != []
    probabilities = [one["probability"] for one in expected]
    assert [one["probability"] for one in found] == pytest.approx(probabilities, abs=1e-4)
    assert [one.get("boxes") for one in found] == [one.get("boxes") for one in expected]


@pytest.mark.parametrize(
    ("task", "form", "words", "message"),
    [
        ("segmentation", {}, "--compile", "net.onnx: exported networks cannot be compiled"),
        ("segmentation", {}, "--precision bf16", "--precision bf16: .*net.onnx is fixed"),
        ("segmentation", {"argmax": True, "normalize": True}, "--ms", "class ids only"),
        (
            *("segmentation", {"argmax": True, "normalize": True}),
            *("--save probabilities", "class ids only"),
        ),
        ("classification", {}, "--precision fp16", "--precision fp16: .*net.onnx is fixed"),
    ],
)
def test_exported_networks_refuse_options(drn_here, exports, task, form, words, message):
    Image.fromarray(noise(48, 64)).save("a.png")
    network = exports(task, format="onnx", **form)
    code, _, stderr = drn_here("predict", "a.png", "--weights", network, *words.split())
    assert code == 1
    [error] = re.findall("error: .*", stderr)
    assert re.search(message, error)
