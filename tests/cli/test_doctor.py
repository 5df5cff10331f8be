"""`drn doctor` prints what it found, and ends with what that means."""

import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

import drn_cli
from drn_cli.cli.app import app
from drn_cli.doctor import examination
from drn_cli.doctor.finding import Finding

FINE = Finding("one", "ok", "as it [should] be")
MEH = Finding("two", "warning", "so so", "take [care]")
BAD = Finding("three", "failure", "broken", "mend it")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> object:
    """Replace the checks by some that find this."""

    def replace(*findings: Finding) -> None:
        made = [(finding.name, lambda finding=finding: finding) for finding in findings]
        monkeypatch.setattr(examination, "CHECKS", tuple(made))
        monkeypatch.setattr(examination, "ONLINE", (("web", lambda: BAD),))
        monkeypatch.setattr(examination, "LAST", ())

    return replace


def test_all_of_it(drn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "cache"))
    done = drn("doctor", "--offline", "--json")
    told = json.loads(done.stdout)
    assert done.stderr == ""
    assert (done.returncode, told["ok"], told["drn"]) == (0, True, drn_cli.__version__)
    names = [finding["name"] for finding in told["findings"]]
    assert names[:3] == ["Python", "torch", "torchvision"]
    assert names[-1] == "terminal"
    assert not any(name.startswith(("server", "mirror")) for name in names)
    by_name = {finding["name"]: finding for finding in told["findings"]}
    assert by_name["gloo"]["status"] == "ok"
    assert by_name["disk"]["found"].startswith(str(tmp_path))
    assert by_name["cache folder"]["found"].startswith(str(tmp_path / "cache"))
    assert all(
        finding.keys() == {"name", "status", "found", "remedy"} for finding in by_name.values()
    )
    assert all((f["remedy"] is None) == (f["status"] == "ok") for f in by_name.values())
    # Nothing is left, but for what measures the coverage of its processes.
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".coverage")] == []


def test_failures_decide_the_exit_code(found) -> None:
    found(FINE, MEH)
    done = CliRunner().invoke(app, ["doctor", "--offline"])
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["one", "ok", "as", "it", "[should]", "be"] in lines
    assert ["two", "warning", "so", "so"] in lines
    assert ["->", "take", "[care]"] in lines
    assert done.stdout.endswith(f"\ndrn {drn_cli.__version__}: no failures, 1 warning\n")
    found(FINE, BAD, MEH, MEH)
    done = CliRunner().invoke(app, ["doctor", "--offline"])
    assert done.exit_code == 1
    assert done.stdout.endswith(": 1 failure, 2 warnings\n")


def test_without_offline_others_are_asked(found) -> None:
    found(FINE)
    assert CliRunner().invoke(app, ["doctor", "--offline"]).exit_code == 0
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_json_of_a_failure(found) -> None:
    found(FINE, BAD)
    done = CliRunner().invoke(app, ["doctor", "--offline", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {
        "findings": [
            {"name": "one", "status": "ok", "found": "as it [should] be", "remedy": None},
            {"name": "three", "status": "failure", "found": "broken", "remedy": "mend it"},
        ],
        "ok": False,
        "drn": drn_cli.__version__,
    }


def processes_of(group: int) -> list[str]:
    """List the command lines of a group's processes, as Linux has them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def test_ctrl_c_leaves_no_process(drn, until) -> None:
    running = drn.begin("doctor", "--offline")
    until(lambda: any("doctor.addition" in line for line in processes_of(running.pid)))
    os.kill(running.pid, signal.SIGINT)
    stdout, stderr = running.communicate(timeout=100)
    assert (running.returncode, stdout, stderr) == (130, "", "interrupted\n")
    assert processes_of(running.pid) == []
