"""Which runtime a file is for."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from drn_cli.errors import DrnError, warn_for_all
from drn_cli.inference.exported.network import ExportedNetwork
from drn_cli.inference.exported.runtime import content_of, half_written
from drn_cli.integrity import damaged
from drn_cli.networks.metadata import check_metadata
from drn_cli.replacing import half_replaced

logger = logging.getLogger(__name__)

NEEDED = ("arch", "task", "classes", "input", "outputs")


def is_exported(path: Path) -> bool:
    """Tell by its name whether a file holds an exported network."""
    return path.suffix.lower() in _READERS


def open_exported(path: Path, *, quiet: bool = False) -> ExportedNetwork:
    """Open a network that `drn export` wrote.

    Args:
        path: The file.
        quiet: Whether nothing is warned of.

    Raises:
        DrnError: No such file, the runtime is not installed, or the file is damaged or of others.
    """
    if not path.is_file():
        if half_replaced(path):
            raise half_written(path)
        content_of(path)  # which says what is wrong, also where the runtime is not installed
    try:
        found = _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise damaged(path, error) from error
    if any(key not in found.told for key in NEEDED):
        raise DrnError(
            f"{path}: does not say what it is", "networks that `drn export` wrote can be used"
        )
    checked = replace(found, told=check_metadata(found.told, path, ours=True))
    if not (found.verified or quiet):
        warn_for_all(
            logger, f"{path}: not verified, as it holds no checksum (exporting it again writes one)"
        )
    return checked


def _onnx(path: Path) -> ExportedNetwork:
    from drn_cli.inference.exported.onnx import open_onnx

    return open_onnx(path)


def _openvino(path: Path) -> ExportedNetwork:
    from drn_cli.inference.exported.openvino import open_openvino

    return open_openvino(path)


def _program(path: Path) -> ExportedNetwork:
    from drn_cli.inference.exported.program import open_program

    return open_program(path)


_READERS: dict[str, Callable[[Path], ExportedNetwork]] = {
    ".onnx": _onnx,
    ".xml": _openvino,
    ".pt2": _program,
}
