"""The official Cityscapes scorer, if it is installed."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OFFICIAL = "DRN_OFFICIAL_PYTHON"  # a Python that has the package cityscapesscripts

Scorer = Callable[[Path, Path], dict[str, Any]]


@pytest.fixture
def official_scorer(tmp_path: Path) -> Scorer:
    """Score submitted maps of label ids against `*_gtFine_labelIds.png`; returns its JSON.

    The package needs older versions of NumPy and Pillow, so it is installed in a separate virtual
    environment: `pip install cityscapesscripts 'numpy<2.4' 'pillow<13'`.
    """
    python = os.environ.get(OFFICIAL)
    if not python:
        pytest.skip(f"{OFFICIAL} is not set to a Python with cityscapesscripts")

    def score(predictions: Path, labels: Path) -> dict[str, Any]:
        script, result = Path(__file__).with_name("official_scorer.py"), tmp_path / "official.json"
        command = [python, script, predictions, labels, result]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(result.read_text())

    return score
