"""`export`: the file agrees with its checkpoint, or no file is written."""

import errno
import fcntl
import hashlib
import json
import logging
import math
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_networks import CLASS_SET, SMALL, STATISTICS, Exports, lively, noise
from PIL import Image

from drn_cli.errors import DrnError
from drn_cli.export import exporting, program, weights
from drn_cli.export import onnx as onnx_files
from drn_cli.export import openvino as openvino_files
from drn_cli.export.exporting import ExportResult, export
from drn_cli.export.form import ENDINGS, ExportConfig
from drn_cli.inference.metadata import to_metadata
from drn_cli.inference.opening import open_network
from drn_cli.inference.source import Source, find_source
from drn_cli.networks.checkpoints import save_weights

pytestmark = pytest.mark.usefixtures("quick")

# Module and function that write each format.
WRITERS: dict[str, tuple[Any, str]] = {
    "safetensors": (weights, "write_safetensors"),
    "fyu": (weights, "write_original"),
    "pt2": (program, "write_program"),
    "onnx": (onnx_files, "write_onnx"),
    "openvino": (openvino_files, "write_openvino"),
}


@pytest.fixture
def source(exports: Exports) -> Source:
    return find_source(exports.run())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder whose content is checked."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Return all files in a folder, including hidden ones."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def write_another(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Make `export` write a file of another network."""

    def copy(path: Path, *_: Any) -> None:
        shutil.copy(file, path)
        if file.suffix == ".xml":
            shutil.copy(file.with_suffix(".bin"), path.with_suffix(".bin"))

    monkeypatch.setattr(exporting, "_write", copy)


@torch.no_grad()
def shifted(folder: Path, change: float) -> Source:
    """Return a checkpoint in which one weight is changed."""
    model = lively("segmentation")
    model.backbone.layer4[0].conv1.weight[3, 4, 1, 1] += change
    save_weights(folder / "shifted.safetensors", model, to_metadata(model, STATISTICS, CLASS_SET))
    return find_source(folder / "shifted.safetensors")


@pytest.mark.parametrize("format_", list(ENDINGS))
def test_parity_report(exports: Exports, format_: str) -> None:
    file = exports(format=format_)
    others = {".bin"} if format_ == "openvino" else set()
    assert {path.suffix for path in file.parent.iterdir()} == {file.suffix, ".json", *others}
    report = json.loads((file.parent / f"{file.name}.parity.json").read_text())
    assert report["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in file.parent.iterdir()
        if path.suffix != ".json"
    }
    assert (report["arch"], report["task"]) == ("drn_a_18", "segmentation")
    assert report["form"]["format"] == format_
    names = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
    assert report["runtime"].startswith(names.get(format_, "PyTorch"))
    assert report["original"].startswith("PyTorch")
    sizes = [tuple(one["shape"][2:]) for one in report["comparisons"]]
    assert sizes == [SMALL[0]] * 2 + [SMALL[1]] * 2
    assert [one["real"] for one in report["comparisons"]] == [True, False] * 2
    for one in report["comparisons"]:
        limit = report["allowed"]["difference"] * max(1, one["largest"])
        assert 0 <= one["difference"] <= limit < 0.01
        assert one["agreement"] > 0.999


def test_result_and_steps(source: Source, out: Path) -> None:
    steps: list[str] = []
    done = export(
        source, ExportConfig(format="safetensors"), out / "a.safetensors", on_step=steps.append
    )
    assert isinstance(done, ExportResult)
    assert done.files == [out / "a.safetensors.parity.json", out / "a.safetensors"]
    assert sorted(content(out)) == ["a.safetensors", "a.safetensors.parity.json"]
    assert (done.network.arch, done.parity.passed) == ("drn_a_18", True)
    assert steps == ["writing a.safetensors", "comparing it with PyTorch"]


def test_default_name_and_missing_folders(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(source, ExportConfig(format="safetensors"))
    assert (tmp_path / "drn_a_18.safetensors").is_file()
    export(source, ExportConfig(format="fyu"), Path("deep/er/net.pth"))
    assert (tmp_path / "deep" / "er" / "net.pth").is_file()


def test_compares_named_images(source: Source, out: Path) -> None:
    Image.fromarray(noise(60, 40)).save(out / "photo.png")
    form = ExportConfig(format="safetensors")
    done = export(source, form, out / "a.safetensors", images=[str(out)])
    assert [one.inputs for one in done.parity.comparisons][::2] == ["photographs"] * 2


@pytest.mark.parametrize(
    ("format_", "older"),
    [("onnx", False), ("pt2", False), ("safetensors", False), ("fyu", True), ("openvino", True)],
)
def test_a_file_that_differs_is_not_written(
    exports: Exports,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    format_: Any,
    older: bool,
) -> None:
    name = f"a{ENDINGS[format_]}"
    for each in (name, f"{name}.parity.json", "a.bin") if older else ():
        (out / each).write_text(f"older {each}")
    before = content(out)
    write_another(monkeypatch, exports(format=format_))
    message = rf"{name}: not written: in .*, logits differ by .* \(try another precision or format"
    with pytest.raises(DrnError, match=message) as raised:
        export(shifted(tmp_path, 1.0), ExportConfig(format=format_), out / name, force=older)
    assert "\n" not in str(raised.value)
    assert content(out) == before


def test_a_file_that_agrees_is_written(
    exports: Exports, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would also pass if every export failed."""
    write_another(monkeypatch, exports(format="onnx"))
    export(shifted(tmp_path, 0.0), ExportConfig(format="onnx"), out / "a.onnx")
    assert sorted(content(out)) == ["a.onnx", "a.onnx.parity.json"]


def test_non_finite_scores_are_an_error(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DrnError, match=r"synthetic scene 0: the scores of .* are not finite"):
        export(
            shifted(tmp_path, math.nan), ExportConfig(format="safetensors"), out / "a.safetensors"
        )
    assert content(out) == {}


def test_float16_does_not_pass_as_float32(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = weights.write_safetensors

    def halved(*given: Any, half: bool) -> None:
        assert not half
        write(*given, half=True)

    monkeypatch.setattr(weights, "write_safetensors", halved)
    with pytest.raises(DrnError, match="not written"):
        export(source, ExportConfig(format="safetensors"), out / "a.safetensors")
    assert content(out) == {}


@pytest.mark.parametrize(
    ("format_", "error"),
    [*((format_, KeyboardInterrupt) for format_ in ENDINGS), ("fyu", RuntimeError)],
)
def test_an_interrupted_write_leaves_nothing(
    source: Source,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    format_: Any,
    error: type[BaseException],
) -> None:
    module, name = WRITERS[format_]

    def half_done(path: Path, *_: Any, **__: Any) -> None:
        path.write_text("half")
        path.with_suffix(".bin").write_text("half")
        raise error("early")

    monkeypatch.setattr(module, name, half_done)
    older = out / f"a{ENDINGS[format_]}"
    older.write_text("older")
    with pytest.raises(error, match="early"):
        export(source, ExportConfig(format=format_), older, force=True)
    assert content(out) == {older.name: b"older"}


def test_an_interrupted_comparison_leaves_nothing(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(source, ExportConfig(format="safetensors"), out / "a.safetensors")
    assert content(out) == {}


@pytest.mark.parametrize("existing", ["a.xml", "a.xml.parity.json", "a.bin"])
def test_existing_files_are_replaced_only_with_force(
    source: Source, out: Path, existing: str
) -> None:
    (out / existing).write_text("older")
    with pytest.raises(DrnError, match=rf"{existing}: already exists \(use --force to overwrite"):
        export(source, ExportConfig(format="openvino"), out / "a.xml")
    assert content(out) == {existing: b"older"}


def test_a_file_that_appears_meanwhile_is_kept(source: Source, out: Path) -> None:
    file = out / "a.safetensors"

    def interfere(step: str) -> None:
        if step.startswith("comparing"):
            with pytest.raises(DrnError, match=r"a\.safetensors: another process is exporting"):
                export(source, ExportConfig(format="safetensors"), file, force=True)
            file.write_text("of another")

    with pytest.raises(DrnError, match=r"a\.safetensors: already exists \(use --force"):
        export(source, ExportConfig(format="safetensors"), file, on_step=interfere)
    assert content(out) == {file.name: b"of another"}


@pytest.mark.parametrize("locks", [True, False])
def test_removes_leftovers_of_killed_exports(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:

        def unsupported(*_: Any) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", unsupported)
    file = out / "a.safetensors"
    left = {f".{file.name}.0123abcd.tmp", f".{file.name}.0123abcd.tmp/{file.name}"}
    (out / f".{file.name}.0123abcd.tmp").mkdir()
    (out / f".{file.name}.0123abcd.tmp" / file.name).touch()
    (out / f".{file.name}.exports.lock").touch()
    export(source, ExportConfig(format="safetensors"), file)
    whole = {file.name, f"{file.name}.parity.json"}
    assert set(content(out)) == (whole if locks else whole | left)


@pytest.mark.parametrize(("length", "fits"), [(243, True), (244, False)])
def test_length_of_file_names(source: Source, out: Path, length: int, fits: bool) -> None:
    name = "a" * (length - len(".safetensors")) + ".safetensors"
    if fits:
        export(source, ExportConfig(format="safetensors"), out / name)
        assert set(content(out)) == {name, f"{name}.parity.json"}
    else:
        with pytest.raises(DrnError, match=r"safetensors: file name is 1 bytes too long "):
            export(source, ExportConfig(format="safetensors"), out / name)


def test_a_partly_replaced_export_is_replaced_only_with_force(
    source: Source, out: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("drn_cli"), "propagate", True)
    file = out / "a.safetensors"
    (out / f".{file.name}.replacing").touch()
    (out / f".{file.name}.old").write_text("older")
    file.write_text("new")
    before = content(out)
    with pytest.raises(DrnError, match=r"half replaced by an interrupted export \(use --force"):
        export(source, ExportConfig(format="safetensors"), file)
    assert content(out) == before
    export(source, ExportConfig(format="safetensors"), file, force=True)
    assert (
        "a.safetensors: the old files that a killed export had replaced were restored"
        in caplog.text
    )
    assert set(content(out)) == {file.name, f"{file.name}.parity.json"}
    assert open_network(file).classes == 3


@pytest.mark.parametrize("format_", ["safetensors", "fyu"])
def test_warns_once_about_a_checkpoint_of_step_0(
    out: Path, format_: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("drn_cli"), "propagate", True)
    model = lively("segmentation")
    metadata = to_metadata(model, STATISTICS, CLASS_SET) | {"steps": "0"}
    save_weights(out / "untrained.safetensors", model, metadata)
    export(
        find_source(out / "untrained.safetensors"), ExportConfig(format=format_), out / "made.any"
    )
    [line] = caplog.messages
    assert "untrained.safetensors: checkpoint of step 0" in line


def test_force_replaces_all_files(source: Source, out: Path) -> None:
    for name in ("a.safetensors", "a.safetensors.parity.json"):
        (out / name).write_text("older")
    export(source, ExportConfig(format="safetensors"), out / "a.safetensors", force=True)
    assert open_network(out / "a.safetensors").classes == 3
    assert json.loads((out / "a.safetensors.parity.json").read_text())["arch"] == "drn_a_18"


def test_rejects_exported_networks(exports: Exports, out: Path) -> None:
    with pytest.raises(DrnError, match=r"net\.pt2: an exported network cannot be used"):
        export(find_source(exports(format="pt2")), ExportConfig(format="safetensors"), out / "a")
    assert content(out) == {}


def test_original_format_rejects_drn_b(out: Path) -> None:
    save_weights(out / "b.safetensors", lively("segmentation", "drn_b_26"))
    before = content(out)
    with pytest.raises(DrnError, match="drn_b_26: the original code has no DRN-B"):
        export(find_source(out / "b.safetensors"), ExportConfig(format="fyu"), out / "b.pth")
    assert content(out) == before


def test_int8_needs_calibration_images(source: Source, out: Path) -> None:
    with pytest.raises(DrnError, match="--int8: calibration images are missing"):
        export(source, ExportConfig(format="onnx", precision="int8"), out / "a.onnx")
    assert content(out) == {}


@pytest.mark.parametrize(
    ("format_", "package", "extra"),
    [("onnx", "onnx", "onnx"), ("onnx", "onnxscript", "onnx"), ("openvino",) * 3],
)
def test_a_missing_package_is_an_error(
    source: Source,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    format_: Any,
    package: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"--format {format_}: needs {package}, which is not installed \(pip install 'drn-cli"
    with pytest.raises(DrnError, match=rf"{message}\[{extra}\]'\)"):
        export(source, ExportConfig(format=format_), out / f"a{ENDINGS[format_]}")
    assert content(out) == {}


def test_a_folder_that_cannot_be_created(source: Source, out: Path) -> None:
    (out / "file").write_text("in the way")
    with pytest.raises(DrnError, match=r"a\.safetensors: cannot be written: "):
        export(source, ExportConfig(format="safetensors"), out / "file" / "a.safetensors")


@pytest.mark.parametrize("format_", list(ENDINGS))
def test_a_full_disk_is_an_error(source: Source, out: Path, format_: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(DrnError, match="cannot be written"):
            export(source, ExportConfig(format=format_), out / f"a{ENDINGS[format_]}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert content(out) == {}
