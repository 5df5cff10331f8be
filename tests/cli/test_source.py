"""What is said of the weights that a verb uses."""

from pathlib import Path

import pytest

from drn_cli.cli.source import announce
from drn_cli.inference.source import Source


@pytest.mark.parametrize(
    ("start_only", "choice", "rank", "said"),
    [
        (True, None, "0", ["warning: resnet18.pth: not the published classifier"]),
        (False, None, "0", []),
        (False, "of the newest run", "0", ["weights: cache/resnet18.pth (of the newest run)"]),
        (True, "of the newest run", "1", []),
    ],
)
def test_weights_that_are_only_a_start_are_warned_of_once(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    start_only: bool,
    choice: str | None,
    rank: str,
    said: list[str],
) -> None:
    monkeypatch.setenv("RANK", rank)
    announce(Source(Path("cache/resnet18.pth"), None, choice=choice, start_only=start_only))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))
