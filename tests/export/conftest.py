"""Exported networks that are only read, and small images to compare those that tests export."""

import pytest
from exported_networks import SMALL, Exports

from drn_cli.export import probes


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare small images: those of the real size take seconds."""
    monkeypatch.setattr(probes, "SIZES", SMALL)
