"""Safe reading of the pickles of torch.save: no code execution, no exhaustion of memory.

PyTorch's restricted unpickler calls only functions on its allow-list. Some of these can allocate
much memory from few bytes (`bytearray(2**36)`), so each pickle is first scanned against a shorter
allow-list, and tensors with more elements than their storage are refused.
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

# The globals in pickles of state dicts, of optimizer and scheduler states, and of numpy numbers.
ENCODE = "_codecs.encode"  # bytes, before protocol 3
REBUILD = "torch._utils._rebuild_tensor_v2"
REBUILD_AS = "torch._tensor._rebuild_from_type_v2"  # tensors with attributes, as in torch.export
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
# What must follow some of these, as opcodes, globals or strings. With other arguments they could
# allocate much memory: by repeated encoding, or as a container with all rows of an expanded tensor.
FOLLOWED: dict[str, tuple[frozenset[str], ...]] = {
    ENCODE: tuple(frozenset({step}) for step in ("BINUNICODE", "'latin1'", "TUPLE2", "REDUCE")),
    REBUILD_AS: tuple(frozenset({step}) for step in ("MARK", REBUILD, TENSOR)),
    **dict.fromkeys(CONTAINERS, (frozenset({"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"}),)),
}
STATES = ("EMPTY_DICT", "SETITEM", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
PUTS, GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
LATER = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX")
OLD_PICKLES = 5  # pickles before the data in PyTorch's legacy format
# Messages of PyTorch's restricted unpickler about globals that are not on its allow-list.
REFUSAL = re.compile(
    r"unsupported (?:global: )?GLOBAL (\S+)|unrecognized function (.+)|but got (<class .+?>|\S+)",
    re.IGNORECASE,
)
REMEDY = (
    "if you trust it: load it where it was created, and save only model.state_dict() with "
    "torch.save or safetensors"
)


def load_pickle(file: IO[bytes], path: Path) -> Any:
    """Read tensors and plain data that torch.save wrote, in its zip or legacy format.

    Args:
        file: The open file, at any position.
        path: The file, for messages.

    Raises:
        DrnError: Damaged, cut short, or refused because it could execute code or exhaust memory.
    """
    try:
        _scan(file, path)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalars()):
            warnings.simplefilter("ignore")  # about old formats
            content = torch.load(file, map_location="cpu", weights_only=True)
    except DrnError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        text = str(error)
        if refused := REFUSAL.search(text):
            raise _refused(path, next(filter(None, refused.groups()))) from error
        if "Unsupported operand" in text:  # pickle protocol 3 or later, or garbage
            raise _unsupported(path) from error
        # PyTorch's paragraph of advice does not apply here.
        cut = "Weights only load failed" in text
        raise damaged(path, "not a complete pickle of tensors" if cut else error) from error
    _check_sizes(content, size, path)
    return content


def _scan(file: IO[bytes], path: Path) -> None:
    """Check all globals in the pickles that PyTorch will read against the allow-list."""
    file.seek(0)
    if file.read(len(ZIP)) == ZIP:
        file.seek(0)
        # PyTorch's own reader: others may choose another record of the same name.
        content = torch._C.PyTorchFileReader(file).get_record("data.pkl")
        _scan_one(io.BytesIO(content), path)
        return
    file.seek(0)
    if tarfile.is_tarfile(file):  # PyTorch tries this format first
        raise DrnError(f"{path}: refused: a tar archive, of PyTorch before 0.1.10", REMEDY)
    file.seek(0)
    for _ in range(OLD_PICKLES):
        _scan_one(file, path)


def _scan_one(file: IO[bytes], path: Path) -> None:
    memo: dict[Any, str] = {}  # globals and strings in the memo of the pickle
    text, before = "", ""
    expected: tuple[frozenset[str], ...] = ()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in PUTS:
                memo[argument] = text
                continue
            if name in LATER:
                raise _unsupported(path)
            text = ""
            if name == "GLOBAL":
                text = str(argument).replace(" ", ".", 1)
            elif name in GETS:
                text = memo.get(argument, "")
            elif name == "BINUNICODE":
                text = f"'{argument}'"
            if name == "GLOBAL" and not (
                text in ALLOWED
                or STORAGES.fullmatch(text)
                or isinstance(getattr(torch, text.removeprefix("torch."), None), torch.dtype)
            ):
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


def _check_sizes(content: Any, size: int, path: Path) -> None:
    """Check that tensors are not larger than their storages, and these not than the file."""
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
    """Yield the tensors in nested dicts and lists of any depth."""
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, Mapping) else value


def _numpy_scalars() -> list[Any]:
    """Return the globals that are needed to unpickle a numpy number.

    Training checkpoints of the original code have one (best_prec1). The function that rebuilds it
    only converts bytes to a number. numpy 2 moved it, so files have either of two names.
    """
    scalar = np.float64(0).__reduce__()[0]
    kinds = (np.dtype(kind) for kind in ("f2", "f4", "f8", "i4", "i8", "?"))
    return [*((scalar, name) for name in NUMPY_SCALARS), np.dtype, *(type(kind) for kind in kinds)]


def _refused(path: Path, name: str) -> DrnError:
    return DrnError(
        f"{path}: refused: contains more than tensors, which could execute code or exhaust memory "
        f"({name})",
        REMEDY,
    )


def _unsupported(path: Path) -> DrnError:
    return DrnError(
        f"{path}: refused: damaged, or a kind of pickle that could execute code", REMEDY
    )
