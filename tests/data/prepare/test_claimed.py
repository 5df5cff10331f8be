"""Locks of data folders, and leftovers of killed preparations."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.prepare.common import locked_folder
from drn_cli.errors import DrnError


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        for folder, pixels in (("i", np.zeros((4, 4, 3))), ("m", np.eye(4))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{name}.png")
    return tmp_path


SCENES = ("scenes", "out", "--train", "1", "--val", "0", "--test", "0")


@pytest.mark.parametrize(
    "words",
    [
        SCENES,
        ("pairs", "--images", "i", "--labels", "m", "--out", "out"),
        ("imagenet", "i", "--out", "out"),
        ("cityscapes", "out"),
        ("cityscapes", "i", "--lists", "out"),
    ],
)
def test_concurrent_preparation_is_refused(source: Path, words: tuple[str, ...]) -> None:
    if words[0] == "cityscapes":
        (source / "out").mkdir()
    before = sorted(source.rglob("*"))
    with locked_folder(source / "out"):
        done = CliRunner().invoke(app, ["data", "prepare", *words])
    assert isinstance(done.exception, DrnError)
    assert done.exception.message == "out: another process is preparing it"
    assert sorted(source.rglob("*")) == before


def test_read_only_folder_can_be_up_to_date(source: Path) -> None:
    prepare = ["data", "prepare", *SCENES]
    assert CliRunner().invoke(app, prepare).exit_code == 0
    source.chmod(0o555)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        again = CliRunner().invoke(app, [*prepare, "--json"])
    finally:
        os.seteuid(before)
        source.chmod(0o755)
    assert again.exit_code == 0, again.exception
    assert '"unchanged": true' in again.stdout


def living() -> dict[int, int]:
    """Map the ids of all living processes to those of their parents."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(stat.parent.name)] = int(parent)
    return found


def test_killed_preparation_ends_its_workers_and_the_next_cleans_up(
    drn: Any,
    source: Path,
    until: Callable[[Callable[[], Any]], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "drn_cli")
    big = ("scenes", "out", "--train", "400", "--size", "2048x1024")
    process = drn.begin("data", "prepare", *big)
    until(lambda: list(source.glob(".out.*.tmp/leftImg8bit/train/*/*.png")))
    workers = {pid for pid, parent in living().items() if parent == process.pid}
    assert workers or len(os.sched_getaffinity(0)) == 1  # a single core needs none
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not workers & living().keys())
    assert list(source.glob(".out.*.tmp"))
    other = source / ".out.of.another.0123abcd.tmp"
    other.mkdir()
    done = CliRunner().invoke(app, ["data", "prepare", *SCENES])
    assert done.exit_code == 0, done.exception
    assert "removed leftover of a killed run" in caplog.text
    left = sorted(path.name for path in source.iterdir())
    assert left == sorted([other.name, "i", "m", "out"])


@pytest.mark.parametrize("mode", [0o555, 0o711])
def test_fills_an_empty_folder_with_a_read_only_parent(source: Path, mode: int) -> None:
    for wnid in ("n01440764", "n01443537"):
        (source / "net" / "train" / wnid).mkdir(parents=True)
        image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
        image.save(source / "net" / "train" / wnid / f"{wnid}_1.JPEG")
    (source / "out").mkdir(mode=0o777)
    (source / "out").chmod(0o777)
    source.chmod(mode)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        scenes = CliRunner().invoke(app, ["data", "prepare", *SCENES])
        filled = CliRunner().invoke(
            app, ["data", "prepare", "imagenet", "net", "--out", "out", "--partial"]
        )
    finally:
        os.seteuid(before)
        source.chmod(0o755)
    assert "cannot be written" in str(scenes.exception)  # needs a temporary folder in the parent
    assert filled.exit_code == 0, filled.exception
    assert not list((source / "out").glob(".*"))


def test_removes_leftovers_of_a_long_name(source: Path) -> None:
    name = "o" * 250
    left = source / f".{name[:241]}.0123abcd.tmp"
    left.mkdir()
    with locked_folder(source / name):
        assert not left.exists()
