"""Safety of .pt2 files: tensors and a computation, nothing that could run code when it is read.

PyTorch unpickles objects that an archive contains, loads compiled libraries from it, looks up
functions by the names in its JSON, evaluates sizes as Python, compiles source code that contains
its names, and imports what a tree specification names. `drn export` needs none of that. So an
archive may contain only the records that it writes, laid out as PyTorch lays them out, and the JSON
is validated with a schema: every string has a pattern, operators are in a list, and unknown keys
are refused. It follows torch._export.serde.schema of PyTorch 2.11 to 2.14.
"""

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic import StringConstraints as Text
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.inference.export_safety import refused
from drn_cli.integrity import ZIP_ERRORS, check_zip, content_start, damaged
from drn_cli.networks.pickles import load_pickle

EXAMPLE = "data/sample_inputs/model.pt"  # the input that it was traced with
METADATA = "extra/drn.json"
INPUT_NAMES = ("images", "pictures")  # today, and in exports of version 0.1.0
FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
PLAIN = re.compile(
    r"data/(weights/weight|constants/tensor)_\d{1,6}|\.data/(version|serialization_id)"
)
MAX_BYTES = 64 << 20  # of each record that is parsed
MAX_DIGITS = 40  # of a JSON integer
MAX_SIZE_LENGTH = 5_000  # characters of a size expression
QUOTED = 80  # characters of a value in a message

END = struct.Struct("<4s4H2LH")  # end of the central directory, which ends an archive
END64 = struct.Struct("<4sQ4x2L4Q4sLQL")  # PyTorch's 64-bit version of it, and its locator
DESCRIPTORS = (0, 16, 24)  # bytes after a record for its checksum and sizes

ATEN = (
    *("_assert_tensor_metadata.default", "add.Tensor", "argmax.default", "conv2d.default"),
    *("div.Tensor", "eq.Scalar", "max_pool2d.default", "mean.dim", "pad.default", "relu.default"),
    *("relu_.default", "select.int", "slice.Tensor", "sub.Tensor", "sum.dim_IntList"),
    *("sym_size.int", "to.dtype", "upsample_bilinear2d.vec", "where.ScalarOther"),
)
ON_SIZES = ("add", "sub", "mul", "neg", "floordiv", "mod", "eq", "ne", "lt", "le", "gt", "ge")
OPERATORS = frozenset(
    [f"torch.ops.aten.{name}" for name in ATEN] + [f"_operator.{name}" for name in ON_SIZES]
)

SYMBOL = re.compile(r"Symbol\('[su]\d{1,4}'(, (positive|integer|nonnegative)=True)*\)")
INTEGER = re.compile(r"Integer\(-?\d{1,18}\)")
COMBINED = re.compile(r"(Add|Mul|Max|Min|FloorDiv|CeilDiv|Mod|PythonMod)\(n(, n)*\)")

LEAF: dict[str, object] = {"type": None, "context": None, "children_spec": []}


def _tuple_of(*children: object) -> dict[str, object]:
    return {"type": "builtins.tuple", "context": "null", "children_spec": list(children)}


NO_KEYWORDS = {"type": "builtins.dict", "context": "[]", "children_spec": []}
TREES = (
    [1, _tuple_of(_tuple_of(LEAF), NO_KEYWORDS)],  # arguments: one input
    *([1, _tuple_of(*[LEAF] * count)] for count in (1, 2)),  # outputs
)


class RefusedError(ValueError):
    """Contents that `drn export` does not write; the message names them."""


def _parse(content: bytes | str) -> Any:
    """Parse JSON that every parser understands in the same way."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise RefusedError("a duplicate key in a JSON object")
        return made

    def integer(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise RefusedError(f"a number of {len(digits):,} digits")
        return int(digits)

    try:
        return json.loads(content, object_pairs_hook=unique, parse_int=integer)
    except RecursionError:
        raise RefusedError("JSON nested too deep") from None
    except RefusedError:
        raise
    except ValueError as error:  # also of Unicode
        raise RefusedError(f"invalid JSON ({error})") from error


def _is_size(text: str) -> bool:
    """Whether a size is sums, products and quotients of integers and symbols."""
    left = INTEGER.sub("n", SYMBOL.sub("n", text)) if len(text) <= MAX_SIZE_LENGTH else ""
    while (shorter := COMBINED.sub("n", left)) != left:
        left = shorter
    return left == "n"


def _only(passes: Callable[[str], bool]) -> AfterValidator:
    def validate(text: str) -> str:
        if not passes(text):
            raise ValueError("not written by `drn export`")
        return text

    return AfterValidator(validate)


# These end up in source code that PyTorch compiles.
Name = Annotated[str, Text(pattern=r"^_?[a-z][A-Za-z0-9_]{0,199}$")]
Label = Annotated[str, Text(pattern=r"^[A-Za-z0-9_.,;:@+=\[\]()<> -]{0,5000}$")]  # never looked up
ModulePath = Annotated[
    str, Text(pattern=r"^(network(\.([a-z][a-z0-9_]*|[0-9]+)){0,20}|mean|std|)$")
]
Guard = Annotated[
    str,
    Text(
        pattern=rf"^(L\['({'|'.join(INPUT_NAMES)})'\]\.size\(\)\[[0-9]\]"
        r"|[0-9]{1,18}| (and|or) |not |[-+*/%()<>=! ]){1,500}$"
    ),
]
SizeText = Annotated[str, _only(_is_size)]
Tree = Annotated[str, _only(lambda text: _parse(text) in TREES)]
Operator = Annotated[str, _only(OPERATORS.__contains__)]
Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**48)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Empty = Annotated[dict[str, Any], Field(max_length=0)]


class Part(BaseModel):
    """A JSON object. Unknown keys are allowed if empty: newer versions of PyTorch add such keys."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        empty: tuple[Any, ...] = (None, False, [], {})
        return {k: v for k, v in data.items() if k in cls.model_fields or v not in empty}


class OneOf(Part):
    """A tagged union: a JSON object with exactly one key, the kind of its value."""

    @model_validator(mode="after")
    def _one(self) -> "OneOf":
        if len(self.model_fields_set) != 1:
            raise ValueError("expected one kind of value")
        return self


class Named(Part):
    name: Name


class Device(Part):
    type: Literal["cpu"]
    index: None = None


class Hint(OneOf):
    as_int: Int | None = None


class Expression(Part):
    expr_str: SizeText
    hint: Hint | None = None


class Length(OneOf):
    as_int: Int | None = None
    as_expr: Expression | None = None


class TensorMeta(Part):
    dtype: Annotated[int, Field(ge=1, le=13)]
    sizes: list[Length]
    requires_grad: bool
    device: Device
    strides: list[Length]
    storage_offset: Length
    layout: Literal[7]  # strided


class LengthArgument(OneOf):
    as_name: Name | None = None
    as_int: Int | None = None


class Argument(OneOf):
    as_none: Literal[True] | None = None
    as_tensor: Named | None = None
    as_int: Int | None = None
    as_ints: list[Int] | None = None
    as_float: float | None = None
    as_floats: list[float] | None = None
    as_bool: bool | None = None
    as_sym_int: LengthArgument | None = None
    as_sym_ints: list[LengthArgument] | None = None
    as_scalar_type: Annotated[int, Field(ge=1, le=13)] | None = None
    as_memory_format: Annotated[int, Field(ge=1, le=4)] | None = None
    as_layout: Literal[7] | None = None
    as_device: Device | None = None


class NamedArgument(Part):
    name: Name
    arg: Argument
    kind: Literal[1, 2] | None = None


class Metadata(Part):
    nn_module_stack: Label | None = None
    torch_fn: Label | None = None


class Node(Part):
    target: Operator
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: Metadata
    name: Name | None = None
    is_hop_single_tensor_return: None = None


class TensorValue(OneOf):
    as_tensor: Named | None = None


class Graph(Part):
    inputs: list[TensorValue]
    outputs: list[TensorValue]
    nodes: list[Node]
    tensor_values: dict[Name, TensorMeta]
    sym_int_values: dict[Name, Length]
    sym_bool_values: Empty
    is_single_tensor_return: Literal[False] = False
    custom_obj_values: Empty = {}
    sym_float_values: Empty = {}


class UserInput(Part):
    arg: TensorValue


class ParameterSpec(Part):
    arg: Named
    parameter_name: ModulePath


class BufferSpec(Part):
    arg: Named
    buffer_name: ModulePath
    persistent: bool


class InputSpec(OneOf):
    user_input: UserInput | None = None
    parameter: ParameterSpec | None = None
    buffer: BufferSpec | None = None


class OutputSpec(OneOf):
    user_output: UserInput | None = None


class Signature(Part):
    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class CallSignature(Part):
    inputs: Nothing
    outputs: Nothing
    in_spec: Tree
    out_spec: Tree
    forward_arg_names: list[Literal["images", "pictures"]] | None = None


class Call(Part):
    fqn: ModulePath
    signature: CallSignature | None = None


class GraphModule(Part):
    graph: Graph
    signature: Signature
    module_call_graph: list[Call]
    metadata: Empty = {}
    treespec_namedtuple_fields: Empty = {}


class Range(Part):
    min_val: Int | None
    max_val: Int | None


class Version(Part):
    major: Count
    minor: Count


class Program(Part):
    """Contents of `models/model.json`."""

    graph_module: GraphModule
    opset_version: dict[Literal["aten"], Count]
    range_constraints: dict[Annotated[str, Text(pattern=r"^[su][0-9]{1,4}$")], Range]
    schema_version: Version
    verifiers: list[Literal["TRAINING", "ATEN"]] = []
    torch_version: Label
    guards_code: list[Guard] = []


class StoredTensor(Part):
    path_name: Annotated[str, Text(pattern=r"^(weight|tensor)_[0-9]{1,6}$")]
    is_param: bool
    use_pickle: Literal[False]
    tensor_meta: TensorMeta


class TensorTable(Part):
    """Contents of the files that map each tensor to its record."""

    config: dict[ModulePath, StoredTensor]


JSON: dict[str, type[Part]] = {
    "models/model.json": Program,
    "data/weights/model_weights_config.json": TensorTable,
    "data/constants/model_constants_config.json": TensorTable,
}


def check_archive(content: bytes, path: Path) -> bool:
    """Check that a .pt2 is complete, and that nothing in it can run code when it is read.

    Args:
        content: The archive.
        path: Its name in messages.

    Returns:
        Whether its records have checksums.

    Raises:
        DrnError: It is damaged, or could run code.
    """
    try:
        with io.BytesIO(content) as file, zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            _check_layout(records, file, path)
            verified = check_zip(file, path, stored=True)
            root = records[0].filename.partition("/")[0] + "/"
            for record in records:
                if not verified:
                    record.CRC = None  # type: ignore[assignment]  # zipfile would compare zeros
                read = partial(archive.read, record)
                _check_record(record.filename.removeprefix(root), read, record.file_size)
    except RefusedError as error:
        raise refused(path, f"{error}, which could run code") from error
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    return verified


def _check_layout(records: list[zipfile.ZipInfo], file: IO[bytes], path: Path) -> None:
    """Check that the records fill the file from its first byte to the directory at its end.

    Data before, between or after them could be an executable, or a second directory that another
    zip reader prefers.
    """
    if not records:
        raise DrnError(f"{path}: refused: an archive without records", "export it again")
    size = file.seek(0, 2)
    file.seek(size - END.size)
    signature, *counts, length, start, comment = END.unpack(file.read(END.size))
    end, count = start + length, len(records)
    complete = signature == b"PK\5\6" and counts == [0, 0, count, count] and comment == 0
    if end + END.size != size:
        file.seek(size - END.size - END64.size)
        found = END64.unpack(file.read(END64.size))
        expected = (b"PK\6\6", 44, 0, 0, count, count, length, start, b"PK\6\7", 0, end, 1)
        complete = complete and found == expected and end + END64.size + END.size == size
    at = 0
    for record in sorted(records, key=lambda record: record.header_offset):
        gaps = DESCRIPTORS if at else (0,)
        complete = complete and record.header_offset - at in gaps
        at = content_start(file, record) + record.compress_size
    if not complete or start - at not in DESCRIPTORS:
        raise DrnError(
            f"{path}: refused: cut short, or contains data outside of its records",
            "copy it again, or export it again",
        )


def _check_record(name: str, read: Callable[[], bytes], size: int) -> None:
    if name in (*JSON, EXAMPLE, METADATA) and size > MAX_BYTES:
        raise RefusedError(f"{size:,} bytes of {name}")
    if name in JSON:
        try:
            JSON[name].model_validate(_parse(read()))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise RefusedError(f"{repr(first['input'])[:QUOTED]} as {place}") from error
    elif name == EXAMPLE:
        _check_example(read())
    elif name in FIXED:
        if (content := read()) != FIXED[name]:
            raise RefusedError(f"{content[:20]!r} as {name}")
    elif name != METADATA and not PLAIN.fullmatch(name):
        raise RefusedError(repr(name[:QUOTED]))


def _check_example(content: bytes) -> None:
    """Check the example input in exports of older versions: zeros, which is what they wrote.

    PyTorch unpickles it, and retries without `weights_only` if that fails.
    """
    if not content:
        return
    try:
        check_zip(io.BytesIO(content), Path(EXAMPLE), stored=True)
        example = load_pickle(io.BytesIO(content), Path(EXAMPLE))
    except Exception as error:
        raise RefusedError("pickled objects") from error
    match example:
        case ((Tensor() as x,), {}) if not example[1] and x.dim() == 4 and not x.any():
            return
    raise RefusedError(f"{type(example).__name__} as {EXAMPLE}")
