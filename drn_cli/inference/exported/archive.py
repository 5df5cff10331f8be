"""What lies in a .pt2, before PyTorch reads it: tensors and a computation, or what could run code.

PyTorch unpickles objects that an archive holds, loads compiled libraries from it, and looks up and
evaluates much of what its JSON says. None of that is needed for what `drn export` writes, so an
archive may hold those records only, laid out as PyTorch lays them out, and its JSON is held against
a schema of what we write.
"""

import io
import re
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.inference.exported.runtime import refused
from drn_cli.inference.exported.schema import (
    Part,
    Program,
    RefusedError,
    TensorTable,
    check_json,
)
from drn_cli.integrity import ZIP_ERRORS, check_zip, content_start, damaged
from drn_cli.networks.pickles import load_pickle

TRACED = "data/sample_inputs/model.pt"  # the images that it was traced with
TOLD = "extra/drn.json"  # our metadata
JSON: dict[str, type[Part]] = {
    "models/model.json": Program,
    "data/weights/model_weights_config.json": TensorTable,
    "data/constants/model_constants_config.json": TensorTable,
}
FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
PLAIN = re.compile(
    r"data/(weights/weight|constants/tensor)_\d{1,6}|\.data/(version|serialization_id)"
)
LARGEST = dict.fromkeys([*JSON, TRACED, TOLD], 64 << 20)  # bytes

END = struct.Struct("<4s4H2LH")  # at the end of an archive
END64 = struct.Struct("<4sQ4x2L4Q4sLQL")  # before it, of PyTorch: the same again in 64 bits
DESCRIPTORS = (0, 16, 24)  # bytes behind a record, for its checksum and sizes


def check_archive(content: bytes, path: Path) -> bool:
    """Check that a .pt2 is whole, and that nothing in it runs code when it is read.

    Args:
        content: The file.
        path: Its name in messages.

    Returns:
        Whether its records have checksums.

    Raises:
        DrnError: It is damaged, or could run code.
    """
    try:
        with io.BytesIO(content) as file, zipfile.ZipFile(file) as archive:
            _check_layout(archive.infolist(), file, path)
            verified = check_zip(file, path, stored=True)
            records = archive.infolist()
            root = records[0].filename.partition("/")[0] + "/"
            for record in records:
                if not verified:
                    record.CRC = None  # type: ignore[assignment]  # zeros that zipfile would check
                read = partial(archive.read, record)
                _check_record(record.filename.removeprefix(root), read, record.file_size, path)
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    return verified


def _check_layout(records: list[zipfile.ZipInfo], file: IO[bytes], path: Path) -> None:
    """Check that the records fill the file from its first byte to the index at its end.

    What lies before, between or behind them could be a program of another kind, or a second index
    that another reader of zip archives prefers.
    """
    if not records:
        raise DrnError(f"{path}: refused: an archive without records", "export it again")
    size = file.seek(0, 2)
    file.seek(size - END.size)
    signature, *counts, length, start, comment = END.unpack(file.read(END.size))
    end, count = start + length, len(records)
    whole = signature == b"PK\5\6" and counts == [0, 0, count, count] and comment == 0
    if end + END.size != size:
        file.seek(size - END.size - END64.size)
        again = END64.unpack(file.read(END64.size))
        expected = (b"PK\6\6", 44, 0, 0, count, count, length, start, b"PK\6\7", 0, end, 1)
        whole = whole and again == expected and end + END64.size + END.size == size
    at = 0
    for record in sorted(records, key=lambda record: record.header_offset):
        gaps = DESCRIPTORS if at else (0,)
        whole = whole and record.header_offset - at in gaps
        at = content_start(file, record) + record.compress_size
    if not whole or start - at not in DESCRIPTORS:
        raise DrnError(
            f"{path}: refused: cut short, or holds data outside of its records",
            "copy it again, or export it again",
        )


def _check_record(name: str, content: Callable[[], bytes], size: int, path: Path) -> None:
    if size > LARGEST.get(name, size):
        raise _refused(path, f"{size:,} bytes of {name}")
    try:
        if name in JSON:
            check_json(content(), JSON[name])
        elif name == TRACED:
            _check_traced(content(), path)
        elif name in FIXED:
            if content() != FIXED[name]:
                raise RefusedError(f"{content()[:20]!r} as {name}")
        elif name != TOLD and not PLAIN.fullmatch(name):
            raise _refused(path, repr(name[:80]))
    except RefusedError as error:
        raise _refused(path, str(error)) from error


def _check_traced(content: bytes, path: Path) -> None:
    """Check the inputs that a program was traced with, which older versions of `drn` wrote.

    PyTorch unpickles them, and goes on without `weights_only` where that fails.
    """
    if not content:
        return
    try:
        check_zip(io.BytesIO(content), path, stored=True)
        traced = load_pickle(io.BytesIO(content), path)
    except Exception as error:
        raise _refused(path, "pickled objects") from error
    match traced:
        case ((Tensor() as x,), {}) if not traced[1] and x.dim() == 4 and not x.any():
            return
    raise _refused(path, f"{type(traced).__name__} as {TRACED}")


def _refused(path: Path, what: str) -> DrnError:
    return refused(path, f"{what}, which could run code")
