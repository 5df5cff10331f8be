"""What made predictions, written beside them, so that an interrupted run goes on with the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drn_cli import __version__
from drn_cli.errors import DrnError
from drn_cli.files import read_json, sha256, write_json

if TYPE_CHECKING:
    from drn_cli.inference.opening import Found


def leave_record(path: Path, network: "Found", view: Mapping[str, Any], resume: bool) -> None:
    """Write down what makes the predictions, or see that the same is going on.

    Args:
        path: The record.
        network: What predicts.
        view: How it looks at pictures.
        resume: Whether what is there already stays.

    Raises:
        DrnError: What is there was made by another network, or in another way.
    """
    same = {"weights_sha256": sha256(network.path), **view}
    if resume and path.is_file():
        before = read_json(path)
        if not isinstance(before, dict):
            raise DrnError(f"{path}: should hold an object", "remove it to go on")
        different = [key for key, value in same.items() if before.get(key) != value]
        if different:
            raise DrnError(
                f"{path}: the predictions there were made with other {' and '.join(different)}",
                "write somewhere else, or leave out --skip-existing to make them anew",
            )
    told = {"drn": __version__, "network": network.arch, "weights": str(network.path)}
    write_json(path, told | same)
