"""Which runtime a file is for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from drn_cli.errors import DrnError
from drn_cli.inference.exported.network import ExportedNetwork, Start
from drn_cli.networks.catalog import ARCHITECTURES, Task

Opened = tuple[Mapping[str, str], str, Start]  # what it says of itself, its runtime, how to run it

NEEDED = ("arch", "task", "classes", "input", "outputs")


def is_exported(path: Path) -> bool:
    """Tell by its name whether a file holds an exported network."""
    return path.suffix.lower() in _READERS


def open_exported(path: Path) -> ExportedNetwork:
    """Open a network that `drn export` wrote.

    Raises:
        DrnError: No such file, the runtime is not installed, or the file is damaged or of others.
    """
    if not path.is_file():
        raise DrnError(f"{path}: no such file")
    told, runtime, start = _READERS[path.suffix.lower()](path)
    if any(key not in told for key in NEEDED):
        raise DrnError(
            f"{path}: does not say what it is", "networks that `drn export` wrote can be used"
        )
    if told["arch"] not in ARCHITECTURES or told["task"] not in get_args(Task):
        raise DrnError(
            f"{path}: holds what this drn does not know: {told['arch']}, {told['task']}",
            "a newer drn may",
        )
    return ExportedNetwork(path=path, told=told, runtime=runtime, start=start)


def _onnx(path: Path) -> Opened:
    from drn_cli.inference.exported.onnx import open_onnx

    return open_onnx(path)


def _openvino(path: Path) -> Opened:
    from drn_cli.inference.exported.openvino import open_openvino

    return open_openvino(path)


def _program(path: Path) -> Opened:
    from drn_cli.inference.exported.program import open_program

    return open_program(path)


_READERS: dict[str, Callable[[Path], Opened]] = {
    ".onnx": _onnx,
    ".xml": _openvino,
    ".pt2": _program,
}
