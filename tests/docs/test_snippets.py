"""The Python snippets of the documentation run unchanged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import drn_cli
from drn_cli.data.classes import cityscapes
from drn_cli.data.folders import CITYSCAPES
from drn_cli.data.synthetic import draw_scene
from drn_cli.export.exporting import export
from drn_cli.export.form import ExportConfig
from drn_cli.inference.metadata import to_metadata
from drn_cli.inference.source import Source
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.conversion import to_original_keys
from drn_cli.networks.models import DRN

from .markdown import PAGES, ROOT, lines_of


def snippets(page: Path) -> Iterator[tuple[int, str]]:
    """Yield each Python block, with the number of its first line."""
    text: list[str] = []
    first = last = 0
    for line in lines_of(page.read_text(encoding="utf-8")):
        if line.block != "python":
            continue
        if text and line.number != last + 1:
            yield first, "\n".join(text)
            text = []
        if not text:
            first = line.number
        text.append(line.text)
        last = line.number
    if text:
        yield first, "\n".join(text)


WITH_PYTHON = [page for page in PAGES if any(snippets(page))]


def lively(task: Any, classes: int) -> DRN:
    """Return an untrained network whose output depends on the image."""
    torch.manual_seed(0)
    model = drn_cli.create_model("drn_a_18", task, classes)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 96))
    return model.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file used by the pages."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "drn").symlink_to(ROOT)
    Image.fromarray(draw_scene(0, 96, 64)[0]).save(folder / "street.jpg")
    segmenter = lively("segmentation", 19)
    metadata = to_metadata(segmenter, CITYSCAPES, cityscapes())
    save_weights(folder / "best.safetensors", segmenter, metadata)
    save_weights(folder / "classifier.safetensors", lively("classification", 5))
    source = Source(folder / "best.safetensors", None)
    export(source, ExportConfig(format="onnx"), folder / "model.onnx")
    export(source, ExportConfig(format="pt2"), folder / "model.pt2")
    pixels = ExportConfig(format="openvino", argmax=True, normalize=True)
    export(source, pixels, folder / "pixels.xml")
    original = drn_cli.create_model("drn_d_22", "segmentation", 19)
    torch.save(to_original_keys(original), folder / "checkpoint.pth")
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_snippets_run(
    page: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for line, text in snippets(page):
        exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)


def test_the_pages_with_python_are_found() -> None:
    assert {page.name for page in WITH_PYTHON} >= {"README.md", "python.md", "export.md"}
