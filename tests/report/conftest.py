"""Run folders of both tasks, their pages, and a browser to look at them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.report.page import write_report
from drn_cli.runs import Run

from .browser import Browser, find_browser
from .folders import (
    add_classifier,
    add_segmenter,
    classification_recipe,
    segmentation_recipe,
    train_line,
    val_line,
    whole_history,
    write_run,
)

BIRDS = ("robin", "tit", "wren")


@pytest.fixture(scope="session")
def segmentation_run(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that is only read."""
    folder = tmp_path_factory.mktemp("runs") / "easy" / "2026-01-31_12-00-00"
    run = write_run(folder, segmentation_recipe(data_folder), whole_history())
    add_segmenter(run, data_folder)
    return run


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of three classes with two validation pictures each."""
    root, random = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    for bird in BIRDS:
        for split in ("train", "val"):
            (root / split / bird).mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(0, 256, (48, 64, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / bird / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def classification_run(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    lines = [train_line(10), val_line(1, top1=0.25, top5=0.75, seconds=1.0), train_line(20)]
    folder = tmp_path_factory.mktemp("runs") / "birds" / "2026-02-01_12-00-00"
    run = write_run(folder, classification_recipe(birds, len(BIRDS)), lines)
    add_classifier(run, birds)
    return run


@pytest.fixture(scope="session")
def page(segmentation_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the segmentation run."""
    return write_report(segmentation_run, tmp_path_factory.mktemp("page") / "page.html").path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no chromium or google-chrome to look at the page with")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
