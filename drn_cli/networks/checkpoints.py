"""Read weight files of any format without executing code, and write our own.

Reads safetensors, PyTorch's zip and legacy formats, and zip archives with one `.pth`. Writes
safetensors with metadata that describe the tensors and include a checksum.
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
# Prefixes that DataParallel, DistributedDataParallel and torch.compile add to each key.
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
OWN_METADATA = ("format", "arch", "width", "task", "classes")
CHECKSUM = "checksum"  # metadata key; the value is `crc32:` and 8 hexadecimal digits
LONGEST_HEADER = 16 << 20  # bytes; our headers have about ten thousand
# Attribute of a state dict in which modules keep their versions, and our entry there for metadata.
# `load_state_dict` only reads the entries of modules, so it ignores ours.
VERSIONS, ATTACHED = "_metadata", "drn"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Content of a weight file."""

    tensors: dict[str, Tensor]  # tensors by the keys of the file
    metadata: dict[str, str]
    verified: bool = False  # whether a checksum confirms that the file is as it was written


def read_checkpoint(path: str | Path, *, quiet: bool = False) -> Checkpoint:
    """Read a weight file, whose format is recognized by its content.

    The state dict may be nested under `state_dict`, `model` or `net`; prefixes of wrappers are
    removed. Checksums are verified: the one in the metadata, the CRC-32 of zip records, or a
    SHA-256 in `FILE.sha256`. For a file without checksum, a warning is logged.

    Args:
        path: The file.
        quiet: Log no warnings.

    Raises:
        DrnError: No such file, not a checkpoint, damaged, invalid metadata, or a pickle that could
            execute code.
    """
    path = Path(path)
    with open_regular(path, "a weight file") as file:
        found = _read(file, path)
        verified = found.verified or check_recorded_digest(file, path)
    metadata = check_metadata(found.metadata, path)
    if not (verified or quiet):
        warn_for_all(
            logger, f"{path}: not verified: the file has no checksum (`drn models import` adds one)"
        )
    if metadata.get("steps") == "0" and not quiet:
        warn_for_all(logger, f"{path}: checkpoint of step 0: the network has not been trained")
    tensors = {WRAPPERS.sub("", key): value for key, value in found.tensors.items()}
    return Checkpoint(tensors, metadata, verified)


def save_weights(path: Path, model: DRN, extra: Mapping[str, str] | None = None) -> None:
    """Write the weights of a network as safetensors, atomically.

    Args:
        path: The file.
        model: The network, not wrapped by DDP or torch.compile.
        extra: Further metadata: `class_names`, `mean`, `std` and so on. `format`, `arch`, `width`,
            `task` and `classes` always come from the network.

    Raises:
        DrnError: The file cannot be written.
    """
    values = (OURS, model.arch, repr(model.width), model.task, str(model.classes))
    metadata = dict(extra or {}) | dict(zip(OWN_METADATA, values, strict=True))
    content = encode(model.state_dict(), metadata, path)
    with atomic(path) as temporary:
        # Not save_file, which writes another temporary file and raises other errors.
        temporary.write_bytes(content)


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> bytes:
    """Return the content of a safetensors file with a checksum in its metadata.

    Args:
        tensors: Tensors on any device, with any layout.
        metadata: Metadata without the checksum.
        path: The file, for messages.

    Raises:
        DrnError: Metadata that could not be read back.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    strings = check_metadata(metadata, path, writing=True)
    return save(plain, strings | {CHECKSUM: checksum(plain, strings)})


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a checksum of the names, types, shapes and bytes of tensors, and of metadata.

    It does not depend on the order, nor on a checksum in the metadata.
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
    """Return the only `.pth` of a zip archive; raises DrnError if there is none or several."""
    members = [
        member
        for member in archive.infolist()
        if member.filename.endswith((".pth", ".pt")) and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise DrnError(
            f"{path}: a zip archive with {len(members)} .pth files, expected one",
            "unpack it and use one of the files",
        )
    return members[0]


def _read(file: IO[bytes], path: Path) -> Checkpoint:
    try:
        start = file.read(256)
    except OSError as error:
        raise damaged(path, error) from error
    if start.startswith(ZIP):
        return _read_zip(file, path)
    if start[8:9] == b"{":  # before pickles, as the length in front may look like one
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
                    f"{path}: refused: a TorchScript program, which contains code",
                    "use the state dict that it was created from",
                )
            if "data.pkl" not in names:
                return _read_archived(archive, path)
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    verified = check_zip(file, path, stored=True)
    return _unwrap(load_pickle(file, path), path, verified=verified)


def _read_archived(archive: zipfile.ZipFile, path: Path) -> Checkpoint:
    """Read the only weight file in a zip archive, which verifies its CRC-32."""
    member = archived_weights(archive, path)
    inner, content = path / member.filename, io.BytesIO()
    with archive.open(member) as packed:
        shutil.copyfileobj(packed, content)  # in chunks, and never more than the index states
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
    except Exception as error:  # a damaged header can raise anything
        raise damaged(path, error) from error
    return _verified(tensors, metadata, path)


def _verified(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> Checkpoint:
    """Compare tensors and metadata with our checksum in the metadata, if any."""
    written = metadata.pop(CHECKSUM, "")
    if not re.fullmatch("crc32:[0-9a-f]{8}", written):
        if written and (metadata.get("format") == OURS or written.startswith("crc32")):
            raise damaged(path, f"invalid checksum in its metadata: {written[:20]!a}")
        return Checkpoint(tensors, metadata)  # none, or that of another program
    if (found := checksum(tensors, metadata)) != written:
        raise damaged(path, f"checksum mismatch: {found}, expected {written}")
    return Checkpoint(tensors, metadata, verified=True)


def _unwrap(content: Any, path: Path, *, verified: bool) -> Checkpoint:
    """Find the state dict and the metadata in the checkpoint of a training program."""
    if not isinstance(content, Mapping):
        raise DrnError(f"{path}: contains a {type(content).__name__}, not a state dict")
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
                f"{path}: contains no state dict: {key!r} is of type {type(value).__name__}",
                f"expected tensors by name, at the top or under {', '.join(NESTED)}",
            )
    if not content:
        raise DrnError(f"{path}: contains no tensors")
    versions = getattr(content, VERSIONS, None)
    attached = versions.get(ATTACHED) if isinstance(versions, Mapping) else None
    if not isinstance(attached, Mapping):
        return Checkpoint(dict(content), metadata, verified)
    strings = {k: v for k, v in attached.items() if isinstance(k, str) and isinstance(v, str)}
    found = _verified(dict(content), strings, path)
    return Checkpoint(found.tensors, metadata | found.metadata, verified or found.verified)


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
        f"{path}: not a weight file",
        "supported are safetensors, torch.save (.pth, .pt) and a .zip with one .pth",
    )
