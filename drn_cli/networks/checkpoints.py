"""Reading weights from any file without running what is in it, and writing our own.

Read: safetensors, PyTorch's zip and legacy formats, and a zip archive around one `.pth`.
Written: safetensors with a few strings that say what the tensors are.
"""

import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.files import atomic
from drn_cli.networks.models import DRN

NESTED = ("state_dict", "model", "net")
# What DataParallel, DistributedDataParallel and torch.compile put before each key.
WRAPPERS = ("module.", "_orig_mod.")
ZIP = b"PK\x03\x04"
PICKLE = b"\x80"
# How PyTorch's restricted reader says that it will not make or call something.
REFUSAL = re.compile(
    r"unsupported (?:global: )?GLOBAL (\S+)|unrecognized function (.+)|but got (<class .+?>|\S+)",
    re.IGNORECASE,
)
OWN_METADATA = ("format", "arch", "task", "classes")
# Where modules keep the versions of their formats in a state dict, and our strings' name there:
# whoever loads one looks for names of modules alone.
VERSIONS, ATTACHED = "_metadata", "drn"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, as the file names them, and the strings that lie beside them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of weights, recognised by its content.

    A state dict may lie under `state_dict`, `model` or `net`; prefixes of wrappers are taken off.

    Raises:
        DrnError: No such file, not a checkpoint, damaged, or a pickle that would run code.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DrnError(f"{path}: a folder, not a file of weights") from error
    except OSError as error:
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error
    if start.startswith(ZIP):
        return _unwrap(_read_zip(path), path)
    if start[8:9] == b"{":  # before pickles: the length that comes first may look like one
        return _read_safetensors(path)
    if start.startswith(PICKLE):
        with path.open("rb") as file:
            return _unwrap(_load(file, path), path)
    raise _not_a_checkpoint(start, path)


def save_weights(path: Path, model: DRN, extra: Mapping[str, str] | None = None) -> None:
    """Write a network's weights as safetensors, the whole file or nothing.

    Args:
        path: The file.
        model: The bare network, without DDP or compile around it.
        extra: More strings for the metadata: `class_names`, `mean`, `std` and so on. They cannot
            replace `format`, `arch`, `task` and `classes`, which come from the network.

    Raises:
        DrnError: The file cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    values = ("drn", model.arch, model.task, str(model.classes))
    metadata = dict(extra or {}) | dict(zip(OWN_METADATA, values, strict=True))
    with atomic(path) as temporary:
        # Not save_file, which writes a temporary file of its own and has errors of its own.
        temporary.write_bytes(save(tensors, metadata))


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


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
            if "constants.pkl" in names:
                raise DrnError(
                    f"{path}: refused: a TorchScript program, which is code and not only weights",
                    "give the state dict that it was made from",
                )
            if "data.pkl" not in names:
                member = archived_weights(archive, path)
                content = archive.read(member)
                if not content.startswith((ZIP, PICKLE)):
                    raise _not_a_checkpoint(content[:256], path / member.filename)
                return _load(io.BytesIO(content), path / member.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from error
    with path.open("rb") as file:
        return _load(file, path)


def _load(file: IO[bytes], path: Path) -> Any:
    """Unpickle with PyTorch's restricted reader, which builds tensors and calls nothing else."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalars()):
            warnings.simplefilter("ignore")  # about old formats, which we read on purpose
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged pickle raises has no bounds
        text = str(error)
        again = (
            "where it came from, and only if you trust it, save model.state_dict() alone with "
            "torch.save or safetensors"
        )
        if refused := REFUSAL.search(text):
            name = next(filter(None, refused.groups()))
            raise DrnError(
                f"{path}: refused: the file holds something other than tensors, which could run "
                f"code when it is read ({name})",
                again,
            ) from error
        if "Unsupported operand" in text:  # pickle's protocol 3 and later, or garbage
            raise DrnError(
                f"{path}: refused: damaged, or pickled in a way that could run code when it is "
                "read",
                again,
            ) from error
        raise _damaged(path, error) from error


def _numpy_scalars() -> list[Any]:
    """List what a numpy number needs to be unpickled.

    The original's training checkpoints keep their best precision as one. The function that
    rebuilds it makes a number out of bytes and can do nothing else. numpy 2 moved it; files
    name either place.
    """
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
    kinds = (np.dtype(kind) for kind in ("f2", "f4", "f8", "i4", "i8", "?"))
    return [*((scalar, name) for name in names), np.dtype, *(type(kind) for kind in kinds)]


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return Checkpoint(_without_wrappers(tensors), dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _unwrap(content: Any, path: Path) -> Checkpoint:
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
    attached = getattr(content, VERSIONS, {}).get(ATTACHED, {})
    metadata |= {key: value for key, value in attached.items() if isinstance(value, str)}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DrnError(
                f"{path}: holds no state dict: {key!r} is of type {type(value).__name__}",
                f"tensors by name are expected, or a dict with them under {', '.join(NESTED)}",
            )
    if not content:
        raise DrnError(f"{path}: holds no tensors")
    return Checkpoint(_without_wrappers(dict(content)), metadata)


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


def _damaged(path: Path, error: Exception) -> DrnError:
    reason = (str(error).splitlines() or [""])[0].split(". ")[0].strip() or type(error).__name__
    if "Weights only load failed" in reason:  # a paragraph of advice that fits nobody here
        reason = "not a complete pickle of tensors"
    return DrnError(f"{path}: damaged or cut short: {reason}", "copy or download it again")
