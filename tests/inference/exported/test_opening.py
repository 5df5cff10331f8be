"""Files that are damaged, of others, or for a runtime that is not installed."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import openvino
import pytest
import torch
from exported_networks import RUNTIMES, Exports
from torch import nn

from drn_cli.errors import DrnError
from drn_cli.inference.exported.opening import is_exported, open_exported
from drn_cli.inference.opening import open_network

Copy = Callable[[str], Path]
ENDINGS = (".onnx", ".pt2", ".xml")


@pytest.fixture
def copy(exports: Exports, tmp_path: Path) -> Copy:
    """Copy an exported network, so that a test may spoil it."""

    def made(format_: str) -> Path:
        file = exports(format=format_)
        if format_ == "openvino":
            shutil.copy(file.with_suffix(".bin"), tmp_path)
        return Path(shutil.copy(file, tmp_path))

    return made


def refusal(path: Path) -> str:
    """Give the one line in which a file is refused."""
    with pytest.raises(DrnError) as raised:
        open_exported(path)
    assert raised.value.message.startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert len(raised.value.message) < len(str(path)) + 250
    return raised.value.message.removeprefix(f"{path}: ")


def test_endings_tell_what_was_exported() -> None:
    assert all(is_exported(Path(f"net{ending}")) for ending in (*ENDINGS, ".ONNX"))
    assert not any(is_exported(Path(name)) for name in ("net.pth", "net.safetensors", "onnx", "a"))


@pytest.mark.parametrize("format_", RUNTIMES)
def test_what_is_whole_is_opened(exports: Exports, format_: str) -> None:
    found = open_network(exports(format=format_), "segmentation")
    assert (found.arch, found.task, found.classes) == ("drn_a_18", "segmentation", 3)
    names = {"onnx": "ONNX Runtime ", "pt2": "PyTorch ", "openvino": "OpenVINO "}
    assert found.runtime.startswith(names[format_])
    assert found.runtime.rpartition(" ")[2][0].isdigit()


@pytest.mark.parametrize("format_", RUNTIMES)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda content: content[:100], id="start"),
        pytest.param(lambda content: content[: len(content) // 2], id="half"),
        pytest.param(lambda content: content[:-20], id="nearly all"),
        pytest.param(lambda _: bytes(range(200)) * 20, id="noise"),
    ],
)
def test_damaged_files(
    copy: Copy,
    format_: str,
    spoil: Callable[[bytes], bytes],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = copy(format_)
    file.write_bytes(spoil(file.read_bytes()))
    message = refusal(file)
    assert message.startswith(("cannot be read: ", "damaged or cut short: "))
    assert "Exception from" not in message
    assert capfd.readouterr().err == ""  # what libraries have to say stays with them
    assert caplog.text == ""


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_openvinos_weights_lie_beside(copy: Copy, content: bytes | None) -> None:
    file = copy("openvino")
    weights = file.with_suffix(".bin")
    weights.unlink()
    if content is not None:
        weights.write_bytes(content)
    assert "bin file" in refusal(file)


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_such_file(tmp_path: Path, ending: str) -> None:
    assert refusal(tmp_path / f"net{ending}") == "no such file"
    (tmp_path / f"folder{ending}").mkdir()
    assert refusal(tmp_path / f"folder{ending}") == "no such file"


def by_others(ending: str, folder: Path) -> Path:
    """Write a network as somebody does who does not have drn."""
    file = folder / f"theirs{ending}"
    program = torch.export.export(nn.ReLU(), (torch.zeros(1, 3, 8, 8),))
    if ending == ".pt2":
        torch.export.save(program, file)
    elif ending == ".xml":
        openvino.save_model(openvino.convert_model(program), file)
    else:
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        graph = onnx.helper.make_graph([node], "theirs", [value], [out])
        opset = onnx.helper.make_opsetid("", 18)
        onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), file)
    return file


@pytest.mark.parametrize("ending", ENDINGS)
def test_networks_of_others_are_refused(tmp_path: Path, ending: str) -> None:
    assert refusal(by_others(ending, tmp_path)) == "does not say what it is"


@pytest.mark.parametrize(
    ("key", "value"),
    [("arch", "drn_z_1"), ("task", "poetry"), ("classes", None), ("outputs", None)],
)
def test_networks_of_newer_versions_are_refused(copy: Copy, key: str, value: str | None) -> None:
    file = copy("onnx")
    model = onnx.load(file)
    told = {entry.key: entry.value for entry in model.metadata_props}
    del told[key]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, told | ({key: value} if value else {}))
    onnx.save(model, file)
    message = "holds what this drn does not know: " if value else "does not say what it is"
    assert refusal(file).startswith(message)


@pytest.mark.parametrize(
    ("format_", "package", "extra"),
    [("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_a_runtime_that_is_not_installed(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, format_: str, package: str, extra: str
) -> None:
    file = exports(format=format_)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DrnError) as raised:
        open_network(file)
    assert str(raised.value) == (
        f"{file}: needs {package}, which is not installed (pip install 'drn-cli[{extra}]')"
    )
