"""Reading weights from any file without running what is in it, and writing our own.

Read: safetensors, PyTorch's zip and legacy formats, and a zip archive around one `.pth`.
Written: safetensors with a few strings that say what the tensors are, a checksum among them.
"""

import io
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from drn_cli.errors import DrnError, warn_for_all
from drn_cli.files import atomic
from drn_cli.integrity import (
    ZIP_ERRORS,
    check_recorded_digest,
    check_sizes,
    check_zip,
    crc32,
    damaged,
    open_regular,
)
from drn_cli.networks.metadata import OURS, check_metadata
from drn_cli.networks.models import DRN
from drn_cli.networks.pickles import PICKLE, ZIP, load_pickle

logger = logging.getLogger(__name__)

NESTED = ("state_dict", "model", "net")
# What DataParallel, DistributedDataParallel and torch.compile put before each key.
WRAPPERS = ("module.", "_orig_mod.")
OWN_METADATA = ("format", "arch", "width", "task", "classes")
CHECKSUM = "checksum"  # among the metadata: `crc32:` and 8 hexadecimal digits
LONGEST_HEADER = 16 << 20  # bytes; ours have some ten thousand
# Where modules keep the versions of their formats in a state dict, and our strings' name there:
# whoever loads one looks for names of modules alone.
VERSIONS, ATTACHED = "_metadata", "drn"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, as the file names them, and the strings that lie beside them.

    Attributes:
        verified: Whether a checksum shows that the file is as it was written.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    verified: bool = False


def read_checkpoint(path: str | Path, *, quiet: bool = False) -> Checkpoint:
    """Read a file of weights, recognised by its content.

    A state dict may lie under `state_dict`, `model` or `net`; prefixes of wrappers are taken off.
    Checksums are verified: that in the metadata, the CRC-32 of zip records, or else a SHA-256 in
    `FILE.sha256`. A file without any is read, and a warning says so.

    Args:
        path: The file.
        quiet: Whether nothing is warned of.

    Raises:
        DrnError: No such file, not a checkpoint, damaged, metadata that is not what it must be, or
            a pickle that would run code.
    """
    path = Path(path)
    with open_regular(path, "a file of weights") as file:
        found = _read(file, path)
        verified = found.verified or check_recorded_digest(file, path)
    metadata = check_metadata(found.metadata, path)
    if not (verified or quiet):
        warn_for_all(
            logger,
            f"{path}: not verified, as it holds no checksum (`drn models import` writes one that "
            "does)",
        )
    if metadata.get("steps") == "0" and not quiet:
        warn_for_all(logger, f"{path}: checkpoint of step 0: this network has not been trained")
    return Checkpoint(_without_wrappers(found.tensors), metadata, verified)


def save_weights(path: Path, model: DRN, extra: Mapping[str, str] | None = None) -> None:
    """Write a network's weights as safetensors, the whole file or nothing.

    Args:
        path: The file.
        model: The bare network, without DDP or compile around it.
        extra: More strings for the metadata: `class_names`, `mean`, `std` and so on. They cannot
            replace `format`, `arch`, `width`, `task` and `classes`, which come from the network.

    Raises:
        DrnError: The file cannot be written.
    """
    values = (OURS, model.arch, repr(model.width), model.task, str(model.classes))
    metadata = dict(extra or {}) | dict(zip(OWN_METADATA, values, strict=True))
    content = encode(model.state_dict(), metadata, path)
    with atomic(path) as temporary:
        # Not save_file, which writes a temporary file of its own and has errors of its own.
        temporary.write_bytes(content)


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> bytes:
    """Return a file of safetensors with a checksum in its metadata.

    Args:
        tensors: On any device, of any layout.
        metadata: Strings for it.
        path: The file that it is for, for messages.

    Raises:
        DrnError: Metadata that could not be read back.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    strings = check_metadata(metadata, path, writing=True)
    return save(plain, strings | {CHECKSUM: checksum(plain, strings)})


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a checksum over names, types, shapes and bytes of tensors, and over metadata.

    A checksum among the metadata is left out. Order does not matter.
    """
    names = sorted(tensors)
    described = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    strings = sorted(item for item in metadata.items() if item[0] != CHECKSUM)

    def chunks() -> Iterator[bytes | memoryview]:
        yield json.dumps([described, strings]).encode()
        for name in names:
            flat = tensors[name].detach().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data

    return f"crc32:{crc32(chunks())}"


def archived_weights(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """Find the one `.pth` of a zip archive; raises DrnError if there is none or several."""
    members = [
        member
        for member in archive.infolist()
        if member.filename.endswith((".pth", ".pt")) and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise DrnError(
            f"{path}: a zip archive with {len(members)} .pth files, where one is expected",
            "unpack it and give the file you mean",
        )
    return members[0]


def _read(file: IO[bytes], path: Path) -> Checkpoint:
    try:
        start = file.read(256)
    except OSError as error:
        raise damaged(path, error) from error
    if start.startswith(ZIP):
        return _read_zip(file, path)
    if start[8:9] == b"{":  # before pickles: the length that comes first may look like one
        return _read_safetensors(path, int.from_bytes(start[:8], "little"))
    if start.startswith(PICKLE):
        return _unwrap(load_pickle(file, path), path, verified=False)
    raise _not_a_checkpoint(start, path)


def _read_zip(file: IO[bytes], path: Path) -> Checkpoint:
    try:
        with zipfile.ZipFile(file) as archive:
            check_sizes(archive, path)
            names = [name.rpartition("/")[2] for name in archive.namelist()]
            if "constants.pkl" in names:
                raise DrnError(
                    f"{path}: refused: a TorchScript program, which is code and not only weights",
                    "give the state dict that it was made from",
                )
            if "data.pkl" not in names:
                return _read_archived(archive, path)
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    verified = check_zip(file, path, stored=True)
    return _unwrap(load_pickle(file, path), path, verified=verified)


def _read_archived(archive: zipfile.ZipFile, path: Path) -> Checkpoint:
    """Read the one file in a zip archive, whose CRC-32 is verified on the way."""
    member = archived_weights(archive, path)
    inner, content = path / member.filename, io.BytesIO()
    with archive.open(member) as packed:
        shutil.copyfileobj(packed, content)  # piece by piece, and never more than the index says
    start = content.getvalue()[:256]
    if start.startswith(ZIP):
        check_zip(content, inner, stored=True)
    elif not start.startswith(PICKLE):
        raise _not_a_checkpoint(start, inner)
    return _unwrap(load_pickle(content, inner), inner, verified=True)


def _read_safetensors(path: Path, header: int) -> Checkpoint:
    if header > LONGEST_HEADER:
        raise damaged(path, f"a header of {header:,} bytes")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except Exception as error:  # what a damaged header raises has no bounds
        raise damaged(path, error) from error
    return _verified(tensors, metadata, path)


def _verified(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> Checkpoint:
    """Compare tensors and metadata with the checksum of ours that lies beside them, if any."""
    written = metadata.pop(CHECKSUM, "")
    if not re.fullmatch("crc32:[0-9a-f]{8}", written):
        if written and (metadata.get("format") == OURS or written.startswith("crc32")):
            raise damaged(path, f"its checksum is {written[:20]!a}, which is not a checksum")
        return Checkpoint(tensors, metadata)  # of another kind, in the files of others
    if (found := checksum(tensors, metadata)) != written:
        raise damaged(path, f"its checksum is {found}, not {written}")
    return Checkpoint(tensors, metadata, verified=True)


def _unwrap(content: Any, path: Path, *, verified: bool) -> Checkpoint:
    """Find the state dict in what a training program saved."""
    if not isinstance(content, Mapping):
        raise DrnError(f"{path}: holds a {type(content).__name__}, not a state dict")
    metadata = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, str)
    }
    if isinstance(progress := content.get("progress"), Mapping) and "steps" in progress:
        metadata["steps"] = str(progress["steps"])
    for key in NESTED:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DrnError(
                f"{path}: holds no state dict: {key!r} is of type {type(value).__name__}",
                f"tensors by name are expected, or a dict with them under {', '.join(NESTED)}",
            )
    if not content:
        raise DrnError(f"{path}: holds no tensors")
    versions = getattr(content, VERSIONS, None)
    attached = versions.get(ATTACHED) if isinstance(versions, Mapping) else None
    if not isinstance(attached, Mapping):
        return Checkpoint(dict(content), metadata, verified)
    strings = {k: v for k, v in attached.items() if isinstance(k, str) and isinstance(v, str)}
    found = _verified(dict(content), strings, path)
    return Checkpoint(found.tensors, metadata | found.metadata, verified or found.verified)


def _without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    bare = {}
    for key, value in tensors.items():
        name = key
        while name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        bare[name] = value
    return bare


def _not_a_checkpoint(start: bytes, path: Path) -> DrnError:
    if not start:
        return DrnError(f"{path}: the file is empty")
    if start.lstrip().startswith(b"<"):
        return DrnError(
            f"{path}: a web page, not weights", "open it in a browser to see why, or download again"
        )
    if start.startswith(b"version https://git-lfs"):
        return DrnError(f"{path}: a Git LFS pointer, not the weights", "run: git lfs pull")
    return DrnError(
        f"{path}: not a file of weights",
        "safetensors, torch.save (.pth, .pt) and a .zip with one .pth are read",
    )
