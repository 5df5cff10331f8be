"""`drn doctor`: its table, its JSON and its exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import drn_cli
from drn_cli.cli.app import app
from drn_cli.doctor import checks
from drn_cli.errors import DrnError


def fine() -> str:
    return "as it [should] be"


def suboptimal() -> str:
    raise checks.SuboptimalError("so so", "take [care]")


def broken() -> str:
    raise DrnError("broken", "mend it")


def test_all_checks(drn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "cache"))
    done = drn("doctor", "--offline", "--json")
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document.keys() == {"checks", "ok", "drn", "environment"}
    assert (done.returncode, document["ok"]) == (0, True)
    names = [finding["name"] for finding in document["checks"]]
    assert names[:3] == ["Python", "torch", "torchvision"]
    assert not any(name.startswith(("server", "mirror")) for name in names)
    by_name = {finding["name"]: finding for finding in document["checks"]}
    assert by_name["gloo"]["status"] == "ok"
    assert by_name["disk"]["message"].startswith(str(tmp_path))
    assert by_name["cache folder"]["message"].startswith(str(tmp_path / "cache"))
    for finding in by_name.values():
        assert finding.keys() == {"name", "status", "message", "hint"}
        assert (finding["hint"] is None) == (finding["status"] == "ok")
    assert document["environment"]["torch_version"] == by_name["torch"]["message"]
    # Nothing is left, but for what measures the coverage of its processes.
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".coverage")] == []


def test_exit_code_and_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS", {"one": fine, "two": suboptimal, "mirrors": broken})
    done = CliRunner().invoke(app, ["doctor", "--offline"])
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["one", "ok", "as", "it", "[should]", "be"] in lines
    assert ["two", "warning", "so", "so"] in lines
    assert ["->", "take", "[care]"] in lines
    assert done.stdout.endswith(f"\ndrn {drn_cli.__version__}: no failures, 1 warning\n")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert done.stdout.endswith(": 1 failure, 1 warning\n")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document.pop("environment")["python_version"]
    assert document == {
        "checks": [
            {"name": "one", "status": "ok", "message": "as it [should] be", "hint": None},
            {"name": "two", "status": "warning", "message": "so so", "hint": "take [care]"},
            {"name": "mirrors", "status": "failure", "message": "broken", "hint": "mend it"},
        ],
        "ok": False,
        "drn": drn_cli.__version__,
    }
