"""`drn export`, and the other verbs with what it wrote."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_networks import SMALL, Exports, noise
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.errors import DrnError
from drn_cli.export import exporting, probes
from drn_cli.export.form import ExportConfig
from drn_cli.inference.opening import read_network
from drn_cli.networks.conversion import to_original_keys

Drn = Callable[..., Any]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Drn:
    """`drn` in this process, in an empty folder, without a GPU; small images are compared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(probes, "SIZES", SMALL)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def done(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(result: Any) -> str:
    assert isinstance(result.exception, DrnError), result.output
    return str(result.exception)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Give what an export was asked for, which is not made."""
    calls: list[tuple[Any, ...]] = []

    def note(*given: Any, tell: Any, **options: Any) -> None:
        calls.append((*given, options))
        raise DrnError("not made")

    monkeypatch.setattr(exporting, "export", note)
    return calls


def test_the_newest_run_by_default(here: Drn, exports: Exports, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "easy" / "2026-01-31_12-00-00"
    run.parent.mkdir(parents=True)
    run.symlink_to(exports.run())
    result = here("export", "--format", "safetensors")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "drn_a_18.safetensors").is_file()
    lines = result.stdout.splitlines()
    assert re.split(r"  +", lines[0].strip()) == [
        *("compared on", "images", "difference", "largest logit", "same class"),
    ]
    rows = [re.split(r"  +", line.strip()) for line in lines[1:5]]
    height, width = SMALL[0]
    assert [row[0] for row in rows] == ["drawn street scenes", "random pixels"] * 2
    assert rows[0][1] == f"2 of {width}x{height}"
    assert [(row[2], row[4]) for row in rows] == [("0.0e+00", "100.000 %")] * 4
    summary = (
        r"drn_a_18\.safetensors: drn_a_18, segmentation, float32, 44\.\d MB, checked in PyTorch"
    )
    assert re.match(summary, lines[5])
    assert "comparing it with PyTorch" in result.stderr


def test_json_is_all_there_is_on_stdout(here: Drn, exports: Exports) -> None:
    words = ("--format", "fyu", "--out", "net.pth", "--licence", "CC0", "--json")
    told = done(here("export", exports.run(), *words))
    assert (told["file"], told["arch"], told["task"]) == ("net.pth", "drn_a_18", "segmentation")
    assert told["files"] == ["net.pth.parity.json", "net.pth"]
    assert told["form"] == {
        "format": "fyu",
        "argmax": False,
        "normalize": False,
        "precision": "float32",
        "size": None,
    }
    report = json.loads(Path("net.pth.parity.json").read_text())
    assert told["comparisons"] == report["comparisons"]
    assert len(told["comparisons"]) == 4
    assert read_network(Path("net.pth")).metadata["licence"] == "CC0"


@pytest.mark.parametrize("verified", [True, False])
def test_documents_state_whether_the_weights_had_a_checksum(
    here: Drn, exports: Exports, verified: bool
) -> None:
    model = read_network(exports.run() / "checkpoints" / "best.safetensors").model
    # The older format of PyTorch has no CRC-32.
    torch.save(to_original_keys(model), "a.pth", _use_new_zipfile_serialization=verified)
    words = ("--format", "safetensors", "--out", "a.safetensors", "--json")
    exported = done(here("export", "a.pth", *words))
    report = json.loads(Path("a.safetensors.parity.json").read_text())
    words = ("--size", 32, "--rounds", 1, "--warmup", 1, "--seconds", 0, "--json")
    benched = done(here("bench", "a.pth", *words))
    assert [one["verified"] for one in (exported, report, benched)] == [verified] * 3


def test_what_is_there_is_replaced_with_force_alone(here: Drn, exports: Exports) -> None:
    Path("a.safetensors").write_text("older")
    words = ("export", exports.run(), "--format", "safetensors", "--out", "a.safetensors")
    assert "a.safetensors: exists already (--force replaces it" in refusal(here(*words))
    assert Path("a.safetensors").read_text() == "older"
    assert here(*words, "--force").exit_code == 0
    assert read_network(Path("a.safetensors")).classes == 3


def test_options_arrive(here: Drn, exports: Exports, asked: list[Any]) -> None:
    run = exports.run()
    here("export", run)
    words = ("--argmax", "--normalize", "--half", "--size", "64X48", "--out", "deep/a.pt2")
    here("export", run, "--format", "pt2", *words, "--images", "a", "--images", "b")
    words = ("--int8", "--calibration", "c", "--licence", "MIT", "--force")
    here("export", run, "--format", "openvino", *words)
    defaults = {"images": (), "calibration": (), "licence": None, "given": None, "force": False}
    whole = {"argmax": True, "normalize": True, "precision": "float16", "size": (48, 64)}
    int8 = defaults | {"calibration": ["c"], "licence": "MIT", "force": True}
    assert [call[1:] for call in asked] == [
        (ExportConfig(format="onnx"), None, defaults),
        (
            ExportConfig(format="pt2", **whole),
            Path("deep/a.pt2"),
            defaults | {"images": ["a", "b"]},
        ),
        (ExportConfig(format="openvino", precision="int8"), None, int8),
    ]
    assert {call[0].checkpoint for call in asked} == {run / "checkpoints" / "best.safetensors"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--half", "--int8"], "--half and --int8 both say how numbers are kept"),
        (["--calibration", "photos"], "--calibration goes with --int8"),
        (["--out", "net.pt2"], "--out net.pt2: should end with .onnx"),
        (["--format", "openvino", "--out", "net.bin"], "should end with .xml"),
        (["--size", "48"], "'48': should be WxH, width and height in pixels, as 1920x1080"),
        (["--size", "0x64"], "'0x64': should be WxH"),
        (["--size", "48x64x3"], "should be WxH"),
        (["--format", "tflite"], "'tflite'"),
    ],
)
def test_usage_errors(
    here: Drn, exports: Exports, asked: list[Any], words: list[str], message: str
) -> None:
    result = here("export", exports.run(), *words)
    assert result.exit_code == 2
    assert message in " ".join(re.sub(r"[│╭╮╰╯─\s]+", " ", result.stderr).split())
    assert not asked


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("classification", ["--argmax"], "--argmax: is for segmenters"),
        ("segmentation", ["--argmax", "--format", "fyu"], "--argmax: a file of weights has no"),
        ("segmentation", ["--int8", "--format", "pt2"], "--int8: is for onnx and openvino, not"),
        ("segmentation", ["--int8"], "--int8: needs images like those that it will see"),
    ],
)
def test_what_cannot_be(
    here: Drn, exports: Exports, tmp_path: Path, task: Any, words: list[str], message: str
) -> None:
    assert refusal(here("export", exports.run(task), *words)).startswith(message)
    assert not list(tmp_path.iterdir())


def predicted(here: Drn, weights: Path, *words: str) -> dict[str, Any]:
    """Give the index maps and probabilities that `drn predict` writes for two images."""
    for number, size in enumerate(((48, 64), (33, 47))):
        Image.fromarray(noise(*size, number)).save(f"{number}.png")
    shutil.rmtree("predictions", ignore_errors=True)
    saved = ("--save", "index,probabilities", "--json")
    entries = done(here("predict", "0.png", "1.png", "--weights", weights, *saved, *words))
    found = {}
    for entry in entries["written"]:
        with Image.open(entry["index"]) as index, np.load(entry["probabilities"]) as arrays:
            found[entry["image"]] = (np.array(index), arrays[arrays.files[0]].astype(np.float32))
    assert len(found) == 2
    return found


@pytest.mark.parametrize(
    ("format_", "words"), [("onnx", ("--ms", "--flip", "--tile", "64")), ("openvino", ())], ids=str
)
def test_predict_labels_as_with_the_checkpoint(
    here: Drn, exports: Exports, format_: str, words: tuple[str, ...]
) -> None:
    right = predicted(here, exports.run(), *words)
    found = predicted(here, exports(format=format_), *words)
    for name, (index, shares) in right.items():
        assert (found[name][0] == index).mean() > 0.999
        assert np.abs(found[name][1] - shares).max() < 2e-3  # they are kept in 16 bits
        assert len(np.unique(index)) > 1


def test_eval_scores_as_with_the_checkpoint(here: Drn, exports: Exports, data_folder: Path) -> None:
    right, found = (
        done(here("eval", source, "--data", data_folder, "--json"))
        for source in (exports.run(), exports(format="onnx"))
    )
    assert found["checkpoint"].endswith("net.onnx")
    assert found["images"] == right["images"] == 5
    matrices = [np.array(one["confusion_matrix"]) for one in (found, right)]
    assert matrices[0].sum() == matrices[1].sum()
    assert np.abs(matrices[0] - matrices[1]).sum() <= 0.002 * matrices[1].sum()


def test_classes_and_their_places_are_as_with_the_checkpoint(here: Drn, exports: Exports) -> None:
    sources = exports.run("classification"), exports("classification", format="onnx")
    Image.fromarray(noise(60, 80)).save("a.png")
    for verb in (("predict", "--ten-crop"), ("predict",), ("localize",)):
        right, found = (
            done(here(*verb, "a.png", "--weights", source, "--json")) for source in sources
        )
        entries = [one.get("classified", one.get("localized")) for one in (right, found)]
        names = [[one["class"] for one in entry[0]["classes"]] for entry in entries]
        assert names[0] == names[1] and names[0]
        shares = [[one["probability"] for one in entry[0]["classes"]] for entry in entries]
        assert shares[1] == pytest.approx(shares[0], abs=1e-4)
        if verb == ("localize",):
            assert [one["boxes"] for one in entries[0][0]["classes"]] == [
                one["boxes"] for one in entries[1][0]["classes"]
            ]


@pytest.mark.parametrize(
    ("form", "words", "message"),
    [
        ({}, ["--compile"], "net.onnx: cannot be compiled: its own runtime runs it"),
        ({}, ["--precision", "bf16"], "--precision bf16: .*net.onnx computes in what it was exp"),
        ({"argmax": True, "normalize": True}, ["--ms"], "net.onnx: gives classes alone"),
        ({"argmax": True, "normalize": True}, ["--save", "probabilities"], "classes alone"),
    ],
)
def test_what_an_exported_network_cannot_do(
    here: Drn, exports: Exports, form: dict[str, Any], words: list[str], message: str
) -> None:
    Image.fromarray(noise(48, 64)).save("a.png")
    result = here("predict", "a.png", "--weights", exports(format="onnx", **form), *words)
    assert re.search(message, refusal(result))
    assert "\n" not in refusal(result)


@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_precision_is_what_it_was_exported_in(here: Drn, exports: Exports, verb: str) -> None:
    Image.fromarray(noise(48, 64)).save("a.png")
    words = ["--weights", exports("classification", format="onnx"), "--precision", "fp16"]
    inputs = ["--data", "."] if verb == "eval" else ["a.png"]
    assert "computes in what it was exported in" in refusal(here(verb, *inputs, *words))
