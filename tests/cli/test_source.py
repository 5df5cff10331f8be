"""What is said of the weights that a verb uses."""

from pathlib import Path

import pytest

from drn_cli.cli.source import announce
from drn_cli.inference.source import Source


@pytest.mark.parametrize(
    ("choice", "rank", "said"),
    [
        (None, "0", []),
        ("of the newest run", "0", ["weights: cache/resnet18.pth (of the newest run)"]),
        ("of the newest run", "1", []),
    ],
)
def test_weights_that_were_not_named_are(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    choice: str | None,
    rank: str,
    said: list[str],
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    announce(Source(Path("cache/resnet18.pth"), None, choice=choice))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))
