"""Exported files that are damaged, foreign, hostile, or whose runtime is not installed."""

import os
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import openvino
import pytest
import torch
from exported_networks import RUNTIMES, Exports
from torch import nn

from drn_cli.errors import DrnError
from drn_cli.inference.opening import open_network
from drn_cli.inference.runtimes import is_exported, open_exported

Copy = Callable[[str], Path]
ONNX_CHECKSUM, XML_CHECKSUM = 22, 31  # bytes at the end of a file
ENDINGS = (".onnx", ".pt2", ".xml")


@pytest.fixture
def copy(exports: Exports, tmp_path: Path) -> Copy:
    """Copy an exported network, for a test to change."""

    def made(format_: str) -> Path:
        file = exports(format=format_)
        if format_ == "openvino":
            shutil.copy(file.with_suffix(".bin"), tmp_path)
        return Path(shutil.copy(file, tmp_path))

    return made


def refusal(path: Path) -> str:
    """Return the one-line message with which a file is refused, without its path."""
    with pytest.raises(DrnError) as raised:
        open_exported(path)
    assert raised.value.message.startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert len(raised.value.message) < len(str(path)) + 250
    return raised.value.message.removeprefix(f"{path}: ")


def test_file_extensions() -> None:
    assert all(is_exported(Path(f"net{ending}")) for ending in (*ENDINGS, ".ONNX"))
    assert not any(is_exported(Path(name)) for name in ("net.pth", "net.safetensors", "onnx", "a"))


@pytest.mark.parametrize("format_", RUNTIMES)
def test_intact_files(exports: Exports, format_: str) -> None:
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
    assert message.startswith(("damaged or cut short: ", "refused: cut short"))
    assert "Exception from" not in message
    assert capfd.readouterr().err == ""  # no output of the libraries
    assert caplog.text == ""


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_missing_or_damaged_openvino_weights(copy: Copy, content: bytes | None) -> None:
    file = copy("openvino")
    weights = file.with_suffix(".bin")
    weights.unlink()
    if content is not None:
        weights.write_bytes(content)
    expected = "bin file" if content is None else "net.bin is from another export"
    assert expected in refusal(file)


@pytest.fixture(scope="module")
def scores(exports: Exports) -> Callable[[Path], bytes]:
    x = torch.linspace(-2, 2, 3 * 32 * 48).reshape(1, 3, 32, 48)

    def computed(file: Path) -> bytes:
        found = open_exported(file)
        answer = found.session(torch.device("cpu"), 1)(x, "scores")
        return repr(sorted(found.metadata.items())).encode() + answer.numpy().tobytes()

    return computed


@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".xml", ".bin"])
def test_flipped_bits_are_detected(
    exports: Exports,
    copy: Copy,
    ending: str,
    scores: Callable[[Path], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Flip single bits all over a file, more often near its ends."""
    format_ = {".onnx": "onnx", ".pt2": "pt2"}.get(ending, "openvino")
    expected = scores(exports(format=format_))
    file = copy(format_)
    damaged = file.with_suffix(ending)
    content = damaged.read_bytes()
    luck = random.Random(0)
    for number in range(30):
        spoilt = bytearray(content)
        edge = min(len(content), 4096)
        place = luck.choice([luck.randrange(len(content)), luck.randrange(edge)])
        spoilt[-place if number % 2 else place] ^= 1 << luck.randrange(8)
        damaged.write_bytes(spoilt)
        caplog.clear()
        try:
            assert scores(file) == expected or "not verified" in caplog.text, place
        except DrnError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("format_", RUNTIMES)
def test_missing_checksum_is_one_warning(
    copy: Copy, format_: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = copy(format_)
    assert open_exported(file).verified
    assert caplog.text == ""
    if format_ == "pt2":
        content = zeroed_checksums(file)
    else:
        content = file.read_bytes()[: -ONNX_CHECKSUM if format_ == "onnx" else -XML_CHECKSUM]
    file.write_bytes(content)
    assert not open_exported(file).verified
    assert len(caplog.records) == 1
    assert f"{file}: not verified, as it holds no checksum" in caplog.text


def zeroed_checksums(file: Path) -> bytes:
    """Return an archive as `torch.serialization.set_crc32_options(False)` writes it: no CRC-32."""
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        at = archive.start_dir
        for _ in archive.infolist():
            content[at + 16 : at + 20] = bytes(4)
            at += 46 + sum(struct.unpack_from("<3H", content, at + 28))
    return bytes(content)


def test_onnx_file_changed_by_another_program(copy: Copy) -> None:
    file = copy("onnx")
    model = onnx.load(file)
    model.graph.node[0].name = "another"
    onnx.save(model, file)
    assert refusal(file).startswith("damaged")


def test_openvino_files_of_different_exports(exports: Exports, copy: Copy) -> None:
    file = copy("openvino")
    other = exports(format="openvino", precision="float16")
    shutil.copy(other.with_suffix(".bin"), file.with_suffix(".bin"))
    assert refusal(file).endswith(": checksum mismatch, or net.bin is from another export")


@pytest.mark.parametrize("format_", RUNTIMES)
def test_reading_changes_nothing_that_an_export_left(copy: Copy, format_: str) -> None:
    file = copy(format_)
    (file.parent / "thesis.odt").write_text("precious")
    mark = file.with_name(f".{file.name}.replacing")
    mark.write_text('{"files": ["thesis.odt"], "old": []}')
    before = {path: path.read_bytes() for path in file.parent.iterdir()}
    changed = file.parent.stat().st_mtime_ns
    assert open_exported(file).verified
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before
    assert file.parent.stat().st_mtime_ns == changed  # no file came and went


@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".xml", ".bin"])
@pytest.mark.parametrize("kind", ["sparse", "pipe"])
def test_huge_and_endless_files(copy: Copy, ending: str, kind: str) -> None:
    file = copy({".onnx": "onnx", ".pt2": "pt2"}.get(ending, "openvino"))
    spoiled = file.with_suffix(ending)
    spoiled.unlink()
    if kind == "pipe":
        os.mkfifo(spoiled)
    else:
        spoiled.touch()
        os.truncate(spoiled, 1 << 40)
    with pytest.raises(DrnError) as raised:
        open_exported(file)
    expected = {"sparse": "refused: 1,099,511,627,776 bytes, more than ", "pipe": ""}[kind]
    assert raised.value.message.startswith(f"{spoiled}: {expected}")


@pytest.mark.parametrize("format_", RUNTIMES)
def test_checked_bytes_are_the_bytes_that_run(
    scores: Callable[[Path], bytes], copy: Copy, format_: str
) -> None:
    file = copy(format_)
    expected, found = scores(file), open_exported(file)
    for path in file.parent.iterdir():  # a file that is written in place, after the check
        path.write_bytes(bytes(path.stat().st_size))
    x = torch.linspace(-2, 2, 3 * 32 * 48).reshape(1, 3, 32, 48)
    answer = found.session(torch.device("cpu"), 1)(x, "scores")
    assert expected.endswith(answer.numpy().tobytes())


@pytest.mark.parametrize("half", ["another's", "no checksum", "not there"])
def test_half_replaced_files(exports: Exports, copy: Copy, half: str) -> None:
    file = copy("openvino")
    file.with_name(f".{file.name}.replacing").touch()
    if half == "another's":
        other = exports(format="openvino", precision="float16")
        shutil.copy(other.with_suffix(".bin"), file.with_suffix(".bin"))
    elif half == "no checksum":
        file.write_bytes(file.read_bytes()[:-XML_CHECKSUM])
    else:
        file.unlink()
    assert refusal(file) == "half replaced by an interrupted export"


def in_another_file(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def marked_only(model: Any) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def of_a_library(model: Any) -> None:
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)


def with_a_function(model: Any) -> None:
    opset = onnx.helper.make_opsetid("", 18)
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(onnx.helper.make_function("own", "f", ["x"], ["y"], [node], [opset]))


def with_a_subprogram(model: Any) -> None:
    model.graph.node[0].attribute.append(
        onnx.helper.make_attribute("body", onnx.helper.make_graph([], "g", [], []))
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (in_another_file, "tensors in external files"),
        (marked_only, "tensors in external files"),
        (of_a_library, "operators of another library"),
        (with_a_function, "functions"),
        (with_a_subprogram, "subgraphs"),
    ],
)
def test_onnx_contents_that_exports_do_not_have(
    copy: Copy, change: Callable[[Any], None], what: str
) -> None:
    file = copy("onnx")
    model = onnx.load(file)
    change(model)
    assert model.metadata_props.pop().key == "checksum"
    file.write_bytes(model.SerializeToString())
    assert refusal(file) == f"refused: contains {what}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<net ", "<!DOCTYPE net [<!ENTITY a 'a'>]><net ", "contains a document type"),
        (
            "<net ",
            "<?php x?><net ",
            "contains a document type or a processing instruction",
        ),
        (
            'version="opset1"',
            'version="extension"',
            "contains operators of another library",
        ),
        ('version="opset1"', "", "contains operators of another library"),
        (
            "<layers>",
            "<extension path='./x.so'/><layers>",
            "contains an element 'extension'",
        ),
        ("<rt_info>", "<rt_info>" + "<a>" * 40 + "</a>" * 40, "contains an element 'a'"),
        ("<layers>", " " * (16 << 20) + "<layers>", " bytes, more than 16,777,216"),
        ("</net>", "", "damaged or cut short: XML: "),
        ("{", "[", "metadata: not valid JSON"),
        ("{", "{&quot;a&quot;: " + "[" * 100_000, "metadata: not usable JSON: nested too deep"),
        ("{", "{&quot;a&quot;: 1, ", "cut short: metadata: not an object of strings"),
        ("<net ", "<!-- \udcff --><net ", "damaged or cut short: XML: "),
    ],
    ids=str,
)
def test_xml_contents_that_exports_do_not_have(
    copy: Copy, old: str, new: str, message: str
) -> None:
    file = copy("openvino")
    content = file.read_text()[:-XML_CHECKSUM].replace(old, new, 1)
    file.write_bytes(content.encode(errors="surrogateescape"))
    assert message in refusal(file)


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_such_file(tmp_path: Path, ending: str) -> None:
    assert refusal(tmp_path / f"net{ending}") == "no such file"
    (tmp_path / f"folder{ending}").mkdir()
    assert refusal(tmp_path / f"folder{ending}") == "is a folder, not a file"
    os.mkfifo(tmp_path / f"pipe{ending}")
    assert refusal(tmp_path / f"pipe{ending}") == "is not a regular file"


def foreign(ending: str, folder: Path) -> Path:
    """Write a network without drn."""
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
def test_foreign_networks_are_refused(tmp_path: Path, ending: str) -> None:
    message = refusal(foreign(ending, tmp_path))
    assert message.startswith("refused: " if ending == ".pt2" else "no metadata arch, task,")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("arch", "drn_z_1", "unknown architecture 'drn_z_1'"),
        ("task", "poetry", "metadata task: expected "),
        ("classes", None, "no metadata classes"),
        ("outputs", None, "no metadata outputs"),
    ],
)
def test_networks_of_newer_versions_are_refused(
    copy: Copy, key: str, value: str | None, message: str
) -> None:
    file = copy("onnx")
    model = onnx.load(file)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    del metadata[key], metadata["checksum"]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata | ({key: value} if value else {}))
    onnx.save(model, file)
    assert refusal(file).startswith(message)


@pytest.mark.parametrize(
    ("format_", "package", "extra"),
    [("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_missing_runtime(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, format_: str, package: str, extra: str
) -> None:
    file = exports(format=format_)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DrnError) as raised:
        open_network(file)
    assert str(raised.value) == (
        f"{file}: needs {package}, which is not installed (pip install 'drn-cli[{extra}]')"
    )
