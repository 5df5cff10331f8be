"""What the JSON of a .pt2 may hold: the kinds of values that `drn export` writes, and no others.

PyTorch looks functions up by the names in a program, evaluates its sizes as Python, writes its
names into source code that it compiles, and imports what a tree specification names. So each
string has a pattern here, each operator is in a list, and what this schema does not know is
refused. It describes torch._export.serde.schema as of PyTorch 2.11 to 2.14.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic import StringConstraints as Text

from drn_cli.inference.exported.network import INPUT

MOST_DIGITS = 40  # of a whole number in JSON
LONGEST_SIZE = 5_000  # characters of a size
SHOWN = 80  # characters of what a message quotes

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
    [1, _tuple_of(_tuple_of(LEAF), NO_KEYWORDS)],  # the call: one input
    *([1, _tuple_of(*[LEAF] * count)] for count in (1, 2)),  # what it returns
)


class RefusedError(ValueError):
    """JSON that is not what `drn export` writes."""


def parse(content: bytes | str) -> Any:
    """Parse JSON that every reader understands in the same way.

    Raises:
        RefusedError: Not JSON, a key twice in an object, nested too deep, or a number too long.
    """
    try:
        return json.loads(content, object_pairs_hook=_unique, parse_int=_integer)
    except RecursionError:
        raise RefusedError("JSON nested too deep") from None
    except ValueError as error:  # of Unicode and of JSON too
        raise RefusedError(f"JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise RefusedError("a key twice in one object")
    return made


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise RefusedError(f"a number of {len(digits):,} digits")
    return int(digits)


def _size(text: str) -> str:
    """Check that a size is sums, products and quotients of whole numbers and symbols."""
    left = INTEGER.sub("n", SYMBOL.sub("n", text)) if len(text) <= LONGEST_SIZE else ""
    while (shorter := COMBINED.sub("n", left)) != left:
        left = shorter
    return _checked(text, left == "n")


def _tree(text: str) -> str:
    return _checked(text, parse(text) in TREES)


def _operator(text: str) -> str:
    return _checked(text, text in OPERATORS)


def _checked(text: str, passes: bool) -> str:
    if not passes:
        raise ValueError("not what `drn export` writes")
    return text


# These end up in source code that PyTorch compiles.
Name = Annotated[str, Text(pattern=r"^_?[a-z][A-Za-z0-9_]{0,199}$")]
Label = Annotated[str, Text(pattern=r"^[A-Za-z0-9_.,;:@+=\[\]()<> -]{0,5000}$")]  # never looked up
ModulePath = Annotated[
    str, Text(pattern=r"^(network(\.([a-z][a-z0-9_]*|[0-9]+)){0,20}|mean|std|)$")
]
Guard = Annotated[
    str,
    Text(
        pattern=rf"^(L\['{INPUT}'\]\.size\(\)\[[0-9]\]|[0-9]{{1,18}}| (and|or) |not |"
        r"[-+*/%()<>=! ]){1,500}$"
    ),
]
SizeText = Annotated[str, AfterValidator(_size)]
Tree = Annotated[str, AfterValidator(_tree)]
Operator = Annotated[str, AfterValidator(_operator)]
Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**48)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Empty = Annotated[dict[str, Any], Field(max_length=0)]


class Part(BaseModel):
    """A JSON object, whose unknown keys are allowed if empty.

    Newer versions of PyTorch add such keys, and no value is no code.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        empty: tuple[Any, ...] = (None, False, [], {})
        return {k: v for k, v in data.items() if k in cls.model_fields or v not in empty}


class OneOf(Part):
    """A JSON object that holds one of several kinds of values under the name of its kind."""

    @model_validator(mode="after")
    def _one(self) -> "OneOf":
        if len(self.model_fields_set) != 1:
            raise ValueError("one kind of value expected")
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
    forward_arg_names: list[Literal["pictures"]] | None = None


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
    """The file `models/model.json`."""

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
    """The files that say where each tensor lies."""

    config: dict[ModulePath, StoredTensor]


def check_json(content: bytes, kind: type[Part]) -> None:
    """Hold a JSON file of an archive against the schema of its kind.

    Raises:
        RefusedError: It is something else; the message names the place and quotes the value.
    """
    try:
        kind.model_validate(parse(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RefusedError(f"{repr(first['input'])[:SHOWN]} as {place}") from error
