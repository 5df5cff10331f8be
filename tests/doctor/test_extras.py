"""Extras that are installed, not installed, half installed or broken."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from drn_cli.doctor import distributions
from drn_cli.doctor.extras import EXTRAS, Extra, installed
from drn_cli.doctor.finding import Finding


def test_they_are_those_of_pyproject() -> None:
    file = Path(__file__).parents[2] / "pyproject.toml"
    declared = tomllib.loads(file.read_text())["project"]["optional-dependencies"]
    known = {extra.name: extra for extra in EXTRAS}
    for name in declared.keys() - {"test", "dev"}:
        packages = {requirement.partition(">")[0] for requirement in declared[name]}
        assert set(known[name].packages) <= packages, name


def test_what_is_installed() -> None:
    [finding] = installed((Extra("some", "numbers", ("numpy", "yaml")),))
    expected = f"numpy {version('numpy')}, yaml {version('pyyaml')}, for numbers"
    assert finding == Finding("extra some", "ok", expected)


def test_what_is_not() -> None:
    missing, half = installed(
        (Extra("x", "this", ("no_such_a",)), Extra("y", "that", ("numpy", "no_such_b")))
    )
    assert missing == Finding("extra x", "ok", "not installed: pip install 'drn-cli[x]', for this")
    assert half.found == "not installed (no_such_b): pip install 'drn-cli[y]', for that"


def test_what_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising.py").write_text("raise ImportError('libx.so: cannot open')")
    (tmp_path / "hanging.py").write_text("import time; time.sleep(1000)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    raising, sound = installed((Extra("r", "this", ("raising",)), Extra("s", "that", ("json",))))
    assert raising == Finding(
        "extra r",
        "warning",
        "installed, but cannot be imported: ImportError: libx.so: cannot open",
        "pip install --force-reinstall raising",
    )
    assert sound.status == "ok"
    [hanging] = installed((Extra("h", "that", ("hanging",)),), timeout=1)
    assert hanging.status == "warning"
    assert hanging.found == "not checked: to import hanging took longer than 1 seconds"
    assert hanging.remedy is not None and "less busy" in hanging.remedy


def test_versions() -> None:
    assert distributions.version_of("cv2") == version("opencv-python-headless")
    assert distributions.version_of("PIL.Image") == version("pillow")
    assert distributions.version_of("json") == "of unknown version"
