"""Shell completion, through the protocol of the shells, and hints for recipe keys."""

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drn_cli.cli.app import app

LIGHT = """
import os, sys
from drn_cli.__main__ import main
sys.argv = ["drn"]
try:
    main()
finally:
    print("MODULES", *sys.modules, file=sys.stderr)
"""


def complete(line: str) -> list[str]:
    """Complete the last word of a command line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    env = {"_DRN_COMPLETE": "complete_bash", **words}
    done = CliRunner().invoke(app, [], env=env, prog_name="drn")
    return done.stdout.split()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a/1/metrics.jsonl", "mine.yaml", "w.pth", "notes.txt", "deep/er.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("drn tra", ["train"]),
        ("drn train drn_d_22_cam", ["drn_d_22_camvid"]),
        ("drn train m", ["mine.yaml"]),
        ("drn train deep/", ["deep/er.yml"]),
        ("drn train demo train.l", ["train.lr=", "train.log_every="]),
        ("drn train demo train.sync_bn=", ["train.sync_bn=true", "train.sync_bn=false"]),
        ("drn train demo loss.kind=", ["loss.kind=cross_entropy", "loss.kind=ohem"]),
        ("drn train demo model.arch=drn_d_2", ["model.arch=drn_d_22", "model.arch=drn_d_24"]),
        ("drn train demo train.compile=a", ["train.compile=auto"]),
        ("drn train demo train.lr=", []),
        ("drn train --resume a", ["auto"]),
        ("drn train --resume runs/a/1 model.ar", ["model.arch="]),
        ("drn recipes show drn_c_26_cam", ["drn_c_26_camvid"]),
        ("drn recipes copy dem", ["demo"]),
        ("drn models show drn_a_1", ["drn_a_18"]),
        ("drn models fetch drn_d_10", ["drn_d_105", "drn_d_107"]),
        ("drn report runs/a", ["runs/a/1", "runs/a/"]),
        ("drn eval w", ["w.pth"]),
        ("drn export drn_c_5", ["drn_c_58"]),
        ("drn predict x.png --weights run", ["runs/a/1", "runs/"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_completion(here, line, words):
    assert complete(line) == words


def test_completion_does_not_import_torch(drn, monkeypatch):
    monkeypatch.setenv("_DRN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "drn train demo train.e")
    monkeypatch.setenv("COMP_CWORD", "3")
    done = type(drn)(drn.cwd, (sys.executable, "-c", LIGHT))()
    assert done.stdout.split() == ["train.epochs=", "train.ema=", "train.eval_every="]
    assert not {"torch", "numpy", "PIL"} & set(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("train demo --lr 0.1", "train.lr=0.1"),
        ("train demo --batch-size=4", "train.batch_size=4"),
        ("train demo --epochs", "train.epochs=VALUE"),
        ("train demo --data /data/x", "data.root=/data/x"),
        ("train demo --train.momentum 0.8", "train.momentum=0.8"),
        ("train demo --rotate 5 --dry-run", "augment.rotate=5"),
        ("train demo --flip", "augment.flip=VALUE or eval.flip=VALUE"),
        ("recipes check demo --crop 64", "augment.crop=64"),
        ("recipes show demo --arch drn_d_38", "model.arch=drn_d_38"),
        ("demo --epochs 2", "train.epochs=2"),
        ("train demo --nonsense 1", None),
        ("eval --lr 0.1", None),
    ],
)
def test_recipe_key_as_option(words, keys):
    done = CliRunner().invoke(app, words.split())
    message = re.sub(r"[\s│]+", " ", done.stderr)
    assert done.exit_code == 2
    assert "No such option: --" in message
    assert ("recipe keys are given as" in message) == (keys is not None)
    assert keys is None or f"(recipe keys are given as {keys})" in message
