import pytest
from exported_networks import Exports


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Exported networks that are only read."""
    return Exports(tmp_path_factory)
