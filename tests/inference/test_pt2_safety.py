""".pt2 files that could run code are refused, and the code does not run."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drn_cli.data.folders import IMAGENET
from drn_cli.errors import DrnError
from drn_cli.export.form import ExportConfig
from drn_cli.export.program import trace, write_program
from drn_cli.inference.pt2_safety import check_archive
from drn_cli.inference.runtimes import open_exported
from drn_cli.networks import create_model

WEIGHTS = "net/data/weights/model_weights_config.json"
CONSTANTS = "net/data/constants/model_constants_config.json"
GRAPH = "net/models/model.json"
TRACED = "net/data/sample_inputs/model.pt"
ENUM = {"__enum__": True, "fqn": "drn_trap:Trap", "name": "x"}
LIBRARY = {"__enum__": True, "fqn": "ctypes:cdll", "name": "./net.pt2"}
Members = dict[str, bytes]
Change = Callable[[Members], object]


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


class Small(nn.Module):
    """A network with the module names of those that `drn export` writes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.network(images)
        return scores.mean(dim=(2, 3)), scores


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that any code makes, also an import of `drn_trap`."""
    folder = tmp_path / "sprung"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "drn_trap.py").write_text(f"import os\nos.mkdir({str(folder)!r})\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small program like those that `drn export` writes."""
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    x = torch.zeros(2, 3, 40, 40)
    program = torch.export.export(Small().eval(), (x,), dynamic_shapes=(sizes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    metadata = {"arch": "drn_a_18", "task": "segmentation", "classes": "3"}
    metadata |= {"input": "normalised", "outputs": "logits,scores"}
    file = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.export.save(program, file, extra_files={"drn.json": json.dumps(metadata)})
    return file


@pytest.fixture
def rewritten(original: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the archive again with changed records."""

    def write(change: Change, compression: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(original) as archive:
            changed = {name: archive.read(name) for name in archive.namelist()}
        change(changed)
        file = tmp_path / "net.pt2"
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in changed.items():
                archive.writestr(name, content)
        return file

    return write


def in_json(*path: str | int, value: Any, file: str = GRAPH) -> Change:
    """Return a change of one value in a JSON record; the last key of the path may be new."""

    def change(members: Members) -> None:
        whole = place = json.loads(members[file])
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        members[file] = json.dumps(whole).encode()

    return change


def change_table(members: Members, name: str, **changes: Any) -> str:
    """Change the first entry of a tensor table; return the record that it names."""
    table = json.loads(members[name])
    entry = next(iter(table["config"].values()), None)
    if entry is None:
        first = next(iter(json.loads(members[WEIGHTS])["config"].values()))
        entry = table["config"]["network.lifted"] = dict(first)
    entry |= changes
    members[name] = json.dumps(table).encode()
    return str(entry["path_name"])


def assert_refused(file: Path, sprung: Path, what: str) -> None:
    with pytest.raises(
        DrnError, match=r"net\.pt2: refused: contains .*, which could run code"
    ) as raised:
        open_exported(file)
    assert f"contains {what}" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(file)) + 300
    assert not sprung.exists()


def test_copied_archive(rewritten: Any, original: Path) -> None:
    assert check_archive(original.read_bytes(), original)
    file = rewritten(lambda _: None)
    assert check_archive(file.read_bytes(), file)
    assert open_exported(file).arch == "drn_a_18"


@pytest.mark.parametrize(
    ("arch", "task", "options"),
    [
        ("drn_a_18", "segmentation", {"argmax": True, "normalize": True}),
        ("drn_a_18", "classification", {"precision": "float16"}),
        ("drn_c_26", "segmentation", {"size": (48, 64)}),
        ("drn_d_22", "segmentation", {"argmax": True, "precision": "float16"}),
        ("drn_d_22", "classification", {"normalize": True}),
    ],
)
def test_exports_pass(tmp_path: Path, arch: str, task: Any, options: Any) -> None:
    program = trace(create_model(arch, task, 5), IMAGENET, ExportConfig(format="pt2", **options))
    write_program(tmp_path / "net.pt2", program, {})
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        [traced] = [one for one in archive.infolist() if one.filename.endswith("inputs/model.pt")]
    assert traced.file_size == 0  # pickles
    assert check_archive((tmp_path / "net.pt2").read_bytes(), tmp_path / "net.pt2")


def test_pickled_weights(rewritten: Any, sprung: Path) -> None:
    def change(members: Members) -> None:
        name = change_table(members, WEIGHTS, use_pickle=True)
        members[f"net/data/weights/{name}"] = saved(Trap(sprung))

    assert_refused(rewritten(change), sprung, "True as config.network.0.weight.use_pickle")


@pytest.mark.parametrize("prefix", ["custom_obj_0", "opaque_obj_0"])
@pytest.mark.parametrize("says", [True, False])
def test_pickled_constants(rewritten: Any, sprung: Path, prefix: str, says: bool) -> None:
    def change(members: Members) -> None:
        change_table(members, CONSTANTS, use_pickle=says, path_name=prefix)
        members[f"net/data/constants/{prefix}"] = pickle.dumps(Trap(sprung))

    assert_refused(rewritten(change), sprung, f"{prefix!r} as config.network.lifted.path_name")


@pytest.mark.parametrize(
    ("traced", "what"),
    [
        (Trap, "pickled objects"),
        (lambda _: torch.zeros(2, 3, 4, 5), "Tensor as data/sample_inputs/model.pt"),
        (lambda _: ((torch.ones(2, 3, 4, 5),), {}), "tuple as"),
        (lambda _: ((torch.zeros(2, 3, 4, 5),), {"a": 1}), "tuple as"),
        (lambda _: ((torch.zeros(2, 3, 4, 5), "a"), {}), "tuple as"),
        (lambda _: {"a": 1}, "dict as"),
    ],
)
def test_example_inputs(
    rewritten: Any, sprung: Path, traced: Callable[[Path], Any], what: str
) -> None:
    content = saved(traced(sprung))
    file = rewritten(lambda members: members.update({TRACED: content}))
    assert_refused(file, sprung, what)


@pytest.mark.parametrize(
    "name",
    [
        "net/data/weights/model.pt",
        "net/data/constants/model.pt",
        "net/data/aotinductor/model/model.so",
        "net/models/other.json",
        "net/extra/other.json",
        "other/models/model.json",
        "net/../x",
        "version",
    ],
)
def test_unknown_records(rewritten: Any, sprung: Path, name: str) -> None:
    file = rewritten(lambda members: members.update({name: saved(Trap(sprung))}))
    assert_refused(file, sprung, repr(name.removeprefix("net/")))


NODE = ("graph_module", "graph", "nodes", 0)
INPUTS = (*NODE, "inputs", 0, "arg")
CALL = ("graph_module", "module_call_graph", 0)
META = ("graph_module", "graph", "tensor_values", "conv2d", "sizes", 0)
TREE = {"type": "builtins.tuple", "context": "null", "children_spec": []}
TARGETS = (
    *("torch.os.system", "torch.hub.load", "torch.ops.load_library", "torch.ops.aten.x.default"),
    *("torch.ops.aten.from_file.default", "torch.ops.aten.relu_.default.__class__", "#extension"),
    *("_operator.methodcaller", "_operator.attrgetter", "math.sqrt"),
)


def size(text: str) -> dict[str, Any]:
    return {"as_expr": {"expr_str": text, "hint": None}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(((*NODE, "target"), target) for target in TARGETS),
        ((*NODE, "name"), "x = __import__('drn_trap')"),
        ((*NODE, "metadata", "source_fn_stack"), "x,torch.os.system"),
        ((*NODE, "metadata", "from_node"), "[]"),
        ((*NODE, "inputs", 0, "name"), "x=__import__('drn_trap'), y"),
        (INPUTS, {"as_string": "x"}),
        (INPUTS, {"as_operator": "torch.os.system"}),
        (INPUTS, {"as_custom_obj": {"name": "x", "class_fqn": "drn_trap.Trap"}}),
        (INPUTS, {"as_graph": {"name": "x", "graph": {}}}),
        (INPUTS, {"as_tensor": {"name": "x\nimport drn_trap"}}),
        (INPUTS, {"as_none": True, "as_int": 1}),
        (("graph_module", "graph", "custom_obj_values"), {"x": {"name": "x"}}),
        (("graph_module", "metadata"), {"custom": "{}"}),
        (("graph_module", "treespec_namedtuple_fields"), {"drn_trap": {"field_names": ["x"]}}),
        (("graph_module", "signature", "input_specs", 0), {"token": {"arg": {"name": "x"}}}),
        ((*CALL, "fqn"), "__class__"),
        ((*CALL, "signature", "forward_arg_names"), ["x=__import__('drn_trap')"]),
        (META, size("__import__('drn_trap') or Integer(1)")),
        (META, size("Integer(1)**Integer(9)")),
        (META, size("Add(Integer(1), lambda: 0)")),
        (META, size("Symbol('s1', commutative=False)")),
        (META, size("1" * 10_000 + "!")),
        (META, size("Mul(" * 30_000)),
        (META, {"as_int": 10**30}),
        (("guards_code",), ["__import__('drn_trap')"]),
        (("guards_code",), ["L['images'].__class__ != 1"]),
        (("verifiers",), ["drn_trap"]),
        (("range_constraints",), {"x y": {"min_val": 1, "max_val": 2}}),
        (("opset_version",), {"drn_trap": 1}),
        (("something_new",), "drn_trap"),
    ],
    ids=lambda value: (
        str(value)[-60:] if not isinstance(value, tuple) else ".".join(map(str, value))
    ),
)
def test_json_that_exports_do_not_have(rewritten: Any, sprung: Path, path: Any, value: Any) -> None:
    assert_refused(rewritten(in_json(*path, value=value)), sprung, "")


@pytest.mark.parametrize("enum", [ENUM, LIBRARY], ids=["module", "library"])
@pytest.mark.parametrize("spec", ["in_spec", "out_spec"])
@pytest.mark.parametrize(
    "tree",
    [
        lambda enum: [1, enum],
        lambda enum: [enum, TREE],
        lambda enum: [1, TREE | {"context": json.dumps(enum)}],
        lambda enum: [1, TREE | {"context": enum}],
        lambda enum: [1, TREE | {"type": "builtins.dict", "context": json.dumps([enum])}],
        lambda enum: [1, TREE | {"type": "enum.Enum", "context": json.dumps(enum)}],
        lambda enum: [1, TREE | {"children_spec": [TREE | {"context": json.dumps(enum)}]}],
        lambda enum: [1, TREE | {"children_spec": [enum]}],
    ],
    ids=range(8),
)
def test_tree_specifications_that_name_code(
    rewritten: Any, sprung: Path, enum: Any, spec: str, tree: Callable[[Any], Any]
) -> None:
    change = in_json(*CALL, "signature", spec, value=json.dumps(tree(enum)))
    assert_refused(rewritten(change), sprung, "")


def test_tree_specification_of_a_submodule(rewritten: Any, sprung: Path) -> None:
    spec = json.dumps([1, TREE | {"context": json.dumps(ENUM)}])
    signature = {"inputs": [], "outputs": [], "in_spec": spec, "out_spec": spec}
    change = in_json("graph_module", "module_call_graph", 1, "signature", value=signature)
    assert_refused(rewritten(change), sprung, "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "JSON nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5,000 digits"),
        (b'{"graph_module": {}, "graph_module": {}}', "a duplicate key"),
        (b"\xff", "invalid JSON"),
        (b"[]", "[] as"),
    ],
)
@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, CONSTANTS])
def test_ambiguous_or_excessive_json(
    rewritten: Any, sprung: Path, name: str, content: bytes, message: str
) -> None:
    file = rewritten(lambda members: members.update({name: content}))
    with pytest.raises(DrnError) as raised:
        open_exported(file)
    assert message in str(raised.value)
    assert not sprung.exists()


def elf(content: bytes) -> bytes:
    return b"\x7fELF" + bytes(4096) + content


@pytest.mark.parametrize(
    "spoil",
    [
        elf,
        lambda content: content + bytes(10),
        lambda content: content[:-2] + b"\4\0" + b"note",  # a comment
        lambda content: content + content,
    ],
    ids=["library", "behind", "comment", "twice"],
)
def test_polyglot_archives(
    original: Path, tmp_path: Path, sprung: Path, spoil: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "net.pt2"
    file.write_bytes(spoil(original.read_bytes()))
    with pytest.raises(DrnError, match="refused: cut short, or contains data outside"):
        open_exported(file)
    assert not sprung.exists()


def test_library_between_records(original: Path, tmp_path: Path, sprung: Path) -> None:
    file = tmp_path / "net.pt2"
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.fp.write(elf(b""))  # type: ignore[union-attr]
        new.start_dir = new.fp.tell()  # type: ignore[union-attr]
    with pytest.raises(DrnError, match="refused: cut short, or contains data outside"):
        open_exported(file)
    assert not sprung.exists()


def test_compressed_records(rewritten: Any) -> None:
    with pytest.raises(DrnError, match=r"net\.pt2: refused: '.*' is compressed"):
        open_exported(rewritten(lambda _: None, zipfile.ZIP_DEFLATED))


def test_no_records(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "net.pt2", "w").close()
    with pytest.raises(DrnError, match=r"net\.pt2: refused: an archive without records \(export"):
        open_exported(tmp_path / "net.pt2")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_records(rewritten: Any) -> None:
    file = rewritten(lambda _: None)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(GRAPH, b"{}")
    with pytest.raises(DrnError, match=r"net\.pt2: refused: two records of the same name"):
        open_exported(file)


def test_traps_work(sprung: Path) -> None:
    """Without this, the tests above would pass with traps that do nothing."""
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.is_dir()
    sprung.rmdir()
    with pytest.raises(AttributeError):
        torch.utils._pytree.treespec_loads(json.dumps([1, TREE | {"context": json.dumps(ENUM)}]))
    assert sprung.is_dir()
