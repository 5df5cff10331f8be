"""What lies in a .pt2, before PyTorch reads it: tensors and a computation, or what could run code.

PyTorch unpickles objects that an archive holds, loads compiled libraries from it, finds functions
by the names in its graph, and evaluates the sizes in it as Python. None of that is needed for what
`drn export` writes, so what is not known to be harmless is refused.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from drn_cli.errors import DrnError

GRAPH = "models/model.json"
TRACED = "data/sample_inputs/model.pt"  # the pictures that it was traced with
TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
BYTES = re.compile(r"data/(weights/weight|constants/tensor)_\d+|extra/.+")
MARKS = re.compile(r"archive_format|archive_version|version|byteorder|\.\w+|\.data/\w+")
OPERATION = re.compile(
    r"torch\.ops\.aten\.[a-zA-Z_]\w*\.[a-zA-Z]\w*"
    r"|_operator\.(add|sub|mul|neg|floordiv|truediv|mod|pow|eq|ne|lt|le|gt|ge)"
)
# Sizes are sums, products and quotients of whole numbers and of names such as 's63'.
SIZE = re.compile(
    r"(?:Symbol|Integer|Add|Mul|Pow|Max|Min|FloorDiv|CeilDiv|Mod|PythonMod"
    r"|'[su]\d+'|(?:positive|integer|nonnegative)=True|\d|[-(), ])*+"
)


def check_archive(path: Path) -> None:
    """See that nothing in a .pt2 runs code when it is read.

    Raises:
        DrnError: Something could.
        RuntimeError: It is no such archive.
    """
    from torch.export.pt2_archive import PT2ArchiveReader  # which takes a second

    reader = PT2ArchiveReader(str(path))  # what reads it afterwards: to others it may look harmless
    for name in reader.get_file_names():
        if name == GRAPH:
            _check_graph(json.loads(reader.read_bytes(name)), path)
        elif name in TABLES:
            entries = json.loads(reader.read_bytes(name))["config"].values()
            if any(entry["use_pickle"] or not _is_plain(entry["path_name"]) for entry in entries):
                raise _refused(path, "pickled objects")
        elif name == TRACED:
            _check_pictures(reader.read_bytes(name), path)
        elif not BYTES.fullmatch(name) and not MARKS.fullmatch(name):
            raise _refused(path, name)
    with zipfile.ZipFile(path) as archive:
        if "version" in archive.namelist():  # PyTorch's older format, which is all pickles
            raise _refused(path, "pickled objects")


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"(weight|tensor)_\d+", name) is not None


def _check_pictures(content: bytes, path: Path) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # PyTorch would go on without `weights_only`
        raise _refused(path, "pickled objects") from error


def _check_graph(graph: Any, path: Path) -> None:
    for key, value in _entries(graph):
        if key == "target" and not OPERATION.fullmatch(str(value)):
            raise _refused(path, f"a call of {str(value)[:80]!r}")
        if key == "expr_str" and not SIZE.fullmatch(str(value)):
            raise _refused(path, f"the expression {str(value)[:80]!r}")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Give every key with its value, however deep."""
    if isinstance(value, dict):
        yield from value.items()
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _entries(inner)


def _refused(path: Path, what: str) -> DrnError:
    return DrnError(
        f"{path}: refused: holds {what}, which could run code",
        "networks that `drn export` wrote can be used",
    )
