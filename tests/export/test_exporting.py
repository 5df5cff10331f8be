"""A file that answers as its checkpoint does, or no file."""

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

# Where each format's file is written, and the place of the network or program among the arguments.
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
    """A folder whose content a test looks at."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Give all that is in a folder, hidden or not."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def write_another(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let a file be written that was made of another network."""

    def copy(path: Path, *_: Any) -> None:
        shutil.copy(file, path)
        if file.suffix == ".xml":
            shutil.copy(file.with_suffix(".bin"), path.with_suffix(".bin"))

    monkeypatch.setattr(exporting, "_write", copy)


@torch.no_grad()
def shifted(folder: Path, change: float) -> Source:
    """Make a network with one other weight."""
    model = lively("segmentation")
    model.backbone.layer4[0].conv1.weight[3, 4, 1, 1] += change
    save_weights(folder / "shifted.safetensors", model, to_metadata(model, STATISTICS, CLASS_SET))
    return find_source(folder / "shifted.safetensors")


@pytest.mark.parametrize("format_", list(ENDINGS))
def test_the_report_says_what_was_compared(exports: Exports, format_: str) -> None:
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
    seen = [tuple(one["shape"][2:]) for one in report["comparisons"]]
    assert seen == [SMALL[0]] * 2 + [SMALL[1]] * 2
    assert [one["real"] for one in report["comparisons"]] == [True, False] * 2
    for one in report["comparisons"]:
        limit = report["allowed"]["difference"] * max(1, one["largest"])
        assert 0 <= one["difference"] <= limit < 0.01
        assert one["agreement"] > 0.999


def test_what_comes_back(source: Source, out: Path) -> None:
    said: list[str] = []
    done = export(
        source, ExportConfig(format="safetensors"), out / "a.safetensors", tell=said.append
    )
    assert isinstance(done, ExportResult)
    assert done.files == [out / "a.safetensors.parity.json", out / "a.safetensors"]
    assert sorted(content(out)) == ["a.safetensors", "a.safetensors.parity.json"]
    assert (done.network.arch, done.parity.passed) == ("drn_a_18", True)
    assert said == ["writing a.safetensors", "comparing it with PyTorch"]


def test_the_name_is_the_architectures_and_folders_are_made(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(source, ExportConfig(format="safetensors"))
    assert (tmp_path / "drn_a_18.safetensors").is_file()
    export(source, ExportConfig(format="fyu"), Path("deep/er/net.pth"))
    assert (tmp_path / "deep" / "er" / "net.pth").is_file()


def test_images_that_were_named_are_compared(source: Source, out: Path) -> None:
    Image.fromarray(noise(60, 40)).save(out / "photo.png")
    form = ExportConfig(format="safetensors")
    done = export(source, form, out / "a.safetensors", images=[str(out)])
    assert [one.inputs for one in done.parity.comparisons][::2] == ["photographs"] * 2


@pytest.mark.parametrize(
    ("format_", "older"),
    [("onnx", False), ("pt2", False), ("safetensors", False), ("fyu", True), ("openvino", True)],
)
def test_a_file_that_answers_differently_is_not_left_and_an_older_one_is(
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
    message = rf"{name}: not written: in .*, logits differ by .* \(another precision or format may"
    with pytest.raises(DrnError, match=message) as raised:
        export(shifted(tmp_path, 1.0), ExportConfig(format=format_), out / name, force=older)
    assert "\n" not in str(raised.value)
    assert content(out) == before


def test_a_copy_would_have_passed(
    exports: Exports, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would be content with an export that always fails."""
    write_another(monkeypatch, exports(format="onnx"))
    export(shifted(tmp_path, 0.0), ExportConfig(format="onnx"), out / "a.onnx")
    assert sorted(content(out)) == ["a.onnx", "a.onnx.parity.json"]


def test_nan_is_not_left(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DrnError, match="drawn street scene 0: not finite: the scores of"):
        export(
            shifted(tmp_path, math.nan), ExportConfig(format="safetensors"), out / "a.safetensors"
        )
    assert content(out) == {}


def test_half_precision_does_not_pass_for_single(
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
def test_nothing_is_left_when_writing_ends_early(
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


def test_nothing_is_left_when_the_comparison_is_interrupted(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(source, ExportConfig(format="safetensors"), out / "a.safetensors")
    assert content(out) == {}


@pytest.mark.parametrize("there", ["a.xml", "a.xml.parity.json", "a.bin"])
def test_what_is_there_is_kept_unless_it_may_be_replaced(
    source: Source, out: Path, there: str
) -> None:
    (out / there).write_text("older")
    with pytest.raises(DrnError, match=rf"{there}: exists already \(--force replaces it"):
        export(source, ExportConfig(format="openvino"), out / "a.xml")
    assert content(out) == {there: b"older"}


def test_what_another_export_wrote_meanwhile_is_kept(source: Source, out: Path) -> None:
    file = out / "a.safetensors"

    def also(step: str) -> None:
        if step.startswith("comparing"):
            with pytest.raises(DrnError, match=r"a\.safetensors: another process is exporting"):
                export(source, ExportConfig(format="safetensors"), file, force=True)
            file.write_text("of another")

    with pytest.raises(DrnError, match=r"a\.safetensors: exists already \(--force"):
        export(source, ExportConfig(format="safetensors"), file, tell=also)
    assert content(out) == {file.name: b"of another"}


@pytest.mark.parametrize("locks", [True, False])
def test_what_killed_exports_left(
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
def test_names_that_are_as_long_as_they_may_be(
    source: Source, out: Path, length: int, fits: bool
) -> None:
    name = "a" * (length - len(".safetensors")) + ".safetensors"
    if fits:
        export(source, ExportConfig(format="safetensors"), out / name)
        assert set(content(out)) == {name, f"{name}.parity.json"}
    else:
        with pytest.raises(DrnError, match=r"safetensors: the name is too long by 1 bytes: "):
            export(source, ExportConfig(format="safetensors"), out / name)


def test_a_half_replaced_export_is_replaced_with_force_alone(
    source: Source, out: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("drn_cli"), "propagate", True)
    file = out / "a.safetensors"
    (out / f".{file.name}.replacing").touch()
    (out / f".{file.name}.old").write_text("older")
    file.write_text("new")
    before = content(out)
    with pytest.raises(DrnError, match=r"an interrupted export left it half replaced \(--force"):
        export(source, ExportConfig(format="safetensors"), file)
    assert content(out) == before
    export(source, ExportConfig(format="safetensors"), file, force=True)
    assert "a.safetensors: what a killed export had half replaced was undone" in caplog.text
    assert set(content(out)) == {file.name, f"{file.name}.parity.json"}
    assert open_network(file).classes == 3


@pytest.mark.parametrize("format_", ["safetensors", "fyu"])
def test_a_checkpoint_of_step_0_is_warned_of_once(
    out: Path, format_: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("drn_cli"), "propagate", True)
    model = lively("segmentation")
    told = to_metadata(model, STATISTICS, CLASS_SET) | {"steps": "0"}
    save_weights(out / "untrained.safetensors", model, told)
    export(
        find_source(out / "untrained.safetensors"), ExportConfig(format=format_), out / "made.any"
    )
    [line] = caplog.messages
    assert "untrained.safetensors: checkpoint of step 0" in line


def test_force_replaces_all_of_it(source: Source, out: Path) -> None:
    for name in ("a.safetensors", "a.safetensors.parity.json"):
        (out / name).write_text("older")
    export(source, ExportConfig(format="safetensors"), out / "a.safetensors", force=True)
    assert open_network(out / "a.safetensors").classes == 3
    assert json.loads((out / "a.safetensors.parity.json").read_text())["arch"] == "drn_a_18"


def test_an_exported_network_is_not_exported_again(exports: Exports, out: Path) -> None:
    with pytest.raises(DrnError, match=r"net\.pt2: is an exported network.*give the checkpoint"):
        export(find_source(exports(format="pt2")), ExportConfig(format="safetensors"), out / "a")
    assert content(out) == {}


def test_the_original_code_has_no_b(out: Path) -> None:
    save_weights(out / "b.safetensors", lively("segmentation", "drn_b_26"))
    before = content(out)
    with pytest.raises(DrnError, match="drn_b_26: the original code has no DRN-B"):
        export(find_source(out / "b.safetensors"), ExportConfig(format="fyu"), out / "b.pth")
    assert content(out) == before


def test_int8_needs_images(source: Source, out: Path) -> None:
    with pytest.raises(DrnError, match=r"--int8: needs images .*--calibration DIR"):
        export(source, ExportConfig(format="onnx", precision="int8"), out / "a.onnx")
    assert content(out) == {}


@pytest.mark.parametrize(
    ("format_", "package", "extra"),
    [("onnx", "onnx", "onnx"), ("onnx", "onnxscript", "onnx"), ("openvino",) * 3],
)
def test_what_writes_a_format_may_be_missing(
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


def test_a_folder_that_cannot_be_made(source: Source, out: Path) -> None:
    (out / "file").write_text("in the way")
    with pytest.raises(DrnError, match=r"a\.safetensors: cannot be written: "):
        export(source, ExportConfig(format="safetensors"), out / "file" / "a.safetensors")


@pytest.mark.parametrize("format_", list(ENDINGS))
def test_a_full_disk_is_one_line(source: Source, out: Path, format_: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(DrnError, match="cannot be written"):
            export(source, ExportConfig(format=format_), out / f"a{ENDINGS[format_]}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert content(out) == {}
