"""Every check is made, and one that breaks is a line among the others."""

import subprocess
import sys

import pytest

from drn_cli.doctor.examination import checks, examine
from drn_cli.doctor.finding import Finding, gigabytes, in_a_line


@pytest.fixture(autouse=True)
def not_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRN_DEBUG", raising=False)


def broken() -> Finding:
    raise ZeroDivisionError("one line\nanother")


def test_what_a_check_does_not_expect_is_a_failure() -> None:
    assert examine("x", broken) == [
        Finding(
            "x",
            "failure",
            "could not be checked: ZeroDivisionError: one line",
            "drn --debug doctor shows where",
        )
    ]


def test_it_is_raised_for_who_wants_to_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRN_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        examine("x", broken)


def test_a_check_finds_one_thing_or_several() -> None:
    one, two = Finding("a", "ok", "fine"), Finding("b", "warning", "meh", "do")
    assert examine("x", lambda: one) == [one]
    assert examine("x", lambda: iter([one, two])) == [one, two]


def test_offline_leaves_out_what_asks_others() -> None:
    everything = [name for name, _ in checks()]
    alone = [name for name, _ in checks(offline=True)]
    assert len(set(everything)) == len(everything) >= 20
    assert [name for name in everything if name not in alone] == ["mirrors"]


def test_a_doctor_stands_on_python_alone() -> None:
    """What is broken cannot keep it from being found."""
    code = (
        "import sys, drn_cli.doctor.examination\n"
        "sys.exit(str({'torch', 'numpy', 'PIL', 'cv2', 'pydantic', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_words() -> None:
    assert gigabytes(80.4e9) == "80.4 GB"
    assert in_a_line(OSError("\nfirst\nsecond")) == "first"
    assert in_a_line(TimeoutError()) == "TimeoutError"
