"""A run with another width, from training to exports."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from drn_cli.cli.app import app
from drn_cli.errors import DrnError
from drn_cli.inference.opening import open_network
from drn_cli.networks.checkpoints import read_checkpoint
from drn_cli.runs import Run

WIDTH = 0.0625


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def document(*words: str | Path) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(*words: str | Path) -> str:
    result = run(*words)
    assert isinstance(result.exception, DrnError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def thin(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of width 1/16, for tests that only read it."""
    folder = tmp_path_factory.mktemp("thin") / "run"
    document("train", recipe_file, f"model.width={WIDTH}", "train.epochs=1", "--run-dir", folder)
    return Run(folder)


@pytest.mark.parametrize("name", ["last.pt", "best.safetensors"])
def test_checkpoints_record_the_width(thin: Run, name: str) -> None:
    assert read_checkpoint(thin.folder / "checkpoints" / name).metadata["width"] == str(WIDTH)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("format_", ["safetensors", "pt2", "onnx", "openvino"])
def test_exports_record_the_width(thin: Run, tmp_path: Path, format_: str) -> None:
    report = document("export", thin.folder, "--format", format_, "--out",
                      tmp_path / f"x.{'xml' if format_ == 'openvino' else format_}")  # fmt: skip
    assert (report["arch"], report["width"]) == ("drn_a_18", WIDTH)
    found = open_network(Path(report["out"]))
    assert found.architecture.label == f"drn_a_18 (width {WIDTH})"
    file = Path(f"{report['out']}.parity.json")
    assert json.loads(file.read_text())["width"] == WIDTH


def test_json_documents_have_the_width(thin: Run, recipe_file: Path) -> None:
    (row,) = document("runs", thin.folder)
    assert (row["arch"], row["width"]) == ("drn_a_18", WIDTH)
    checked = ("recipes", "check", recipe_file, f"model.width={WIDTH}")
    assert document(*checked)["recipe"]["model"]["width"] == WIDTH
    assert f"drn_a_18 (width {WIDTH})" in run(*checked).stdout
    measured = document("bench", thin.folder, "--what", "forward", "--size", "64x64",
                        "--seconds", "0.01")  # fmt: skip
    assert (measured["arch"], measured["width"]) == ("drn_a_18", WIDTH)


def test_the_original_format_has_width_1_only(thin: Run, tmp_path: Path) -> None:
    message = refusal("export", thin.folder, "--format", "fyu", "--out", tmp_path / "x.pth")
    assert message == (
        f"drn_a_18 (width {WIDTH}): the original code has width 1.0 only (use --format safetensors)"
    )
    assert not list(tmp_path.iterdir())


def test_a_run_keeps_its_width(thin: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(thin.folder, tmp_path / "run")
    message = refusal("train", "--resume", copy, "model.width=0.5")
    assert f"was trained with other settings:\n  model.width: {WIDTH} -> 0.5" in message


def test_initial_weights_must_have_the_width_of_the_run(thin: Run, recipe_file: Path) -> None:
    weights = thin.folder / "checkpoints" / "best.safetensors"
    message = refusal("train", recipe_file, "model.width=0.5", f"model.weights={weights}")
    assert f"contains drn_a_18 of width {WIDTH}, but the network has width 0.5" in message
