"""Pickles of torch.save, read without running what is in them and without letting them take memory.

PyTorch's restricted reader calls what is on its list alone. But that list holds functions that make
much out of little (`bytearray(2**36)`), so each pickle is scanned for a shorter list before it is
read, and tensors that claim more elements than they have bytes are refused.
"""

import io
import pickletools
import re
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.integrity import damaged

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"

# What state dicts, the states of optimizers and schedulers, and numpy numbers are pickled with.
ENCODE = "_codecs.encode"  # how pickles before protocol 3 keep bytes
REBUILD = "torch._utils._rebuild_tensor_v2"
REBUILD_AS = "torch._tensor._rebuild_from_type_v2"  # with attributes, as torch.export keeps some
TENSOR = "torch.Tensor"
NUMPY_SCALARS = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
CONTAINERS = ("collections.OrderedDict", "collections.Counter", "builtins.set", "__builtin__.set")
ALLOWED = frozenset(
    {
        *(REBUILD, "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter"),
        *(REBUILD_AS, TENSOR, "torch.device", ENCODE, "numpy.dtype"),
        *(*CONTAINERS, *NUMPY_SCALARS),
    }
)
STORAGES = re.compile(r"torch\.(cuda\.)?[A-Z][A-Za-z0-9]*Storage")
# What has to follow some of them, as operations, names or texts. Other arguments make much out of
# little: a codec doubles a text again and again; a container lists the rows of an expanded tensor.
FOLLOWED: dict[str, tuple[frozenset[str], ...]] = {
    ENCODE: tuple(frozenset({step}) for step in ("BINUNICODE", "'latin1'", "TUPLE2", "REDUCE")),
    REBUILD_AS: tuple(frozenset({step}) for step in ("MARK", REBUILD, TENSOR)),
    **dict.fromkeys(CONTAINERS, (frozenset({"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"}),)),
}
STATES = ("EMPTY_DICT", "SETITEM", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
PUTS, GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
LATER = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX")
OLD_PICKLES = 5  # before the data in PyTorch's legacy format
# How PyTorch's restricted reader says that it will not make or call something.
REFUSAL = re.compile(
    r"unsupported (?:global: )?GLOBAL (\S+)|unrecognized function (.+)|but got (<class .+?>|\S+)",
    re.IGNORECASE,
)
REMEDY = (
    "where it came from, and only if you trust it, save model.state_dict() alone with torch.save "
    "or safetensors"
)


def load_pickle(file: IO[bytes], path: Path) -> Any:
    """Read what torch.save wrote, in its zip or legacy format: tensors and plain data.

    Args:
        file: The open file, which may stand anywhere.
        path: Its name in messages.

    Raises:
        DrnError: Damaged, cut short, or refused because it could run code or fill memory.
    """
    try:
        _scan(file, path)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalars()):
            warnings.simplefilter("ignore")  # about old formats, which we read on purpose
            content = torch.load(file, map_location="cpu", weights_only=True)
    except DrnError:
        raise
    except Exception as error:  # what a damaged pickle raises has no bounds
        text = str(error)
        if refused := REFUSAL.search(text):
            raise _refused(path, next(filter(None, refused.groups()))) from error
        if "Unsupported operand" in text:  # pickle's protocol 3 and later, or garbage
            raise _later(path) from error
        # A paragraph of advice, which fits no one here.
        cut = "Weights only load failed" in text
        raise damaged(path, "not a complete pickle of tensors" if cut else error) from error
    _check_sizes(content, size, path)
    return content


def _scan(file: IO[bytes], path: Path) -> None:
    """Check the names of all classes and functions in the pickles that PyTorch will read."""
    file.seek(0)
    if file.read(len(ZIP)) == ZIP:
        file.seek(0)
        # PyTorch's reader, as others may find another record of that name.
        content = torch._C.PyTorchFileReader(file).get_record("data.pkl")
        _scan_one(io.BytesIO(content), path)
        return
    file.seek(0)
    if tarfile.is_tarfile(file):  # PyTorch tries that first
        raise DrnError(
            f"{path}: refused: a tar archive, as PyTorch wrote before version 0.1.10", REMEDY
        )
    file.seek(0)
    for _ in range(OLD_PICKLES):
        _scan_one(file, path)


def _scan_one(file: IO[bytes], path: Path) -> None:
    memo: dict[Any, str] = {}  # the names and texts that it holds
    text, before = "", ""
    expected: tuple[frozenset[str], ...] = ()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in PUTS:
                memo[argument] = text
                continue
            if name in LATER:
                raise _later(path)
            text = ""
            if name == "GLOBAL":
                text = str(argument).replace(" ", ".", 1)
            elif name in GETS:
                text = memo.get(argument, "")
            elif name == "BINUNICODE":
                text = f"'{argument}'"
            if name == "GLOBAL" and not _allowed(text):
                raise _refused(path, text)
            if expected:
                if not {name, text} & expected[0]:
                    raise _refused(path, f"{text or name} after {before}")
                expected = expected[1:]
            elif text == TENSOR or (name == "BUILD" and before not in STATES):
                raise _refused(path, text or f"{name} after {before}")
            else:
                expected = FOLLOWED.get(text, ())
            before = text or name
    except (ValueError, UnicodeError) as error:  # of genops
        raise damaged(path, "not a complete pickle of tensors") from error


def _allowed(name: str) -> bool:
    return (
        name in ALLOWED
        or STORAGES.fullmatch(name) is not None
        or isinstance(getattr(torch, name.removeprefix("torch."), None), torch.dtype)
    )


def _check_sizes(content: Any, size: int, path: Path) -> None:
    """Check that tensors have no more elements than their storages, and these than the file."""
    storages = {}
    for tensor in _tensors(content):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise DrnError(
                f"{path}: refused: a tensor of shape {list(tensor.shape)} in "
                f"{storage.nbytes():,} bytes",
                REMEDY,
            )
    if sum(storages.values()) > size:
        raise DrnError(
            f"{path}: refused: tensors of {sum(storages.values()):,} bytes in a file of {size:,}",
            REMEDY,
        )


def _tensors(content: Any) -> Iterator[Tensor]:
    """List the tensors in nested dicts and lists, however deep."""
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, Mapping) else value


def _numpy_scalars() -> list[Any]:
    """List what a numpy number needs to be unpickled.

    The original's training checkpoints keep their best precision as one. The function that
    rebuilds it makes a number out of bytes and can do nothing else. numpy 2 moved it; files
    name either place.
    """
    scalar = np.float64(0).__reduce__()[0]
    kinds = (np.dtype(kind) for kind in ("f2", "f4", "f8", "i4", "i8", "?"))
    return [*((scalar, name) for name in NUMPY_SCALARS), np.dtype, *(type(kind) for kind in kinds)]


def _refused(path: Path, name: str) -> DrnError:
    return DrnError(
        f"{path}: refused: the file holds something other than tensors, which could run code or "
        f"fill memory when it is read ({name})",
        REMEDY,
    )


def _later(path: Path) -> DrnError:
    return DrnError(
        f"{path}: refused: damaged, or pickled in a way that could run code when it is read",
        REMEDY,
    )
