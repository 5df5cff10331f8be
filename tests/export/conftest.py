"""Exported networks for tests that only read them, and small images for the parity check."""

import pytest
from exported_networks import SMALL, Exports

from drn_cli.export import probes


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small images in the parity check: those of the real size take seconds."""
    monkeypatch.setattr(probes, "SIZES", SMALL)
