import io
import os
import sys

import pytest

from drn_cli.doctor.terminal import terminal


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("COLUMNS", "132")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return monkeypatch


def replace(patch: pytest.MonkeyPatch, errors: str) -> None:
    """Make stdout a terminal and give stderr an encoding; pytest has environ of its own."""
    patch.setattr(sys, "stdout", Terminal(io.BytesIO(), encoding="UTF-8"))
    patch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=errors))


def test_a_terminal(environ: pytest.MonkeyPatch) -> None:
    replace(environ, errors="utf8")
    finding = terminal()
    assert finding.status == "ok"
    assert finding.found == (
        "stdout is a terminal, UTF-8; stderr is no terminal, utf8; 132 columns"
    )
    environ.setitem(os.environ, "TERM", "dumb")
    assert terminal().found.endswith("; no colours")


def test_another_encoding(environ: pytest.MonkeyPatch) -> None:
    replace(environ, errors="latin-1")
    finding = terminal()
    assert finding.status == "warning"
    assert "stderr is no terminal, latin-1" in finding.found
    assert "PYTHONUTF8=1" in str(finding.remedy)
