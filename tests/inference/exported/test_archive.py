"""Programs that would run code are refused, and the code is not run."""

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
from torch import nn

from drn_cli.errors import DrnError
from drn_cli.inference.exported.archive import check_archive
from drn_cli.inference.exported.opening import open_exported

WEIGHTS = "net/data/weights/model_weights_config.json"
CONSTANTS = "net/data/constants/model_constants_config.json"
GRAPH = "net/models/model.json"
TRACED = "net/data/sample_inputs/model.pt"
Members = dict[str, bytes]


class Trap:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """Where a folder appears if any code is run."""
    return tmp_path / "sprung"


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Give the files in a program that is like ours, and small."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveMaxPool2d(2)).eval()
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    x = torch.zeros(2, 3, 40, 40)
    program = torch.export.export(layers, (x,), dynamic_shapes=(sizes,))
    told = {"arch": "drn_a_18", "task": "segmentation", "classes": "3"}
    told |= {"input": "normalised", "outputs": "logits,scores"}
    file = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.export.save(program, file, extra_files={"drn.json": json.dumps(told)})
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def rewritten(members: Members, tmp_path: Path) -> Callable[[Callable[[Members], object]], Path]:
    """Write the program again, with other files in the archive."""

    def write(change: Callable[[Members], object]) -> Path:
        changed = dict(members)
        change(changed)
        file = tmp_path / "net.pt2"
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in changed.items():
                archive.writestr(name, content)
        return file

    return write


def change_table(members: Members, name: str, **changes: Any) -> str:
    """Change the first entry of a table of tensors; gives the file that it names."""
    table = json.loads(members[name])
    entry = next(iter(table["config"].values()), None)
    if entry is None:
        first = next(iter(json.loads(members[WEIGHTS])["config"].values()))
        entry = table["config"]["lifted"] = dict(first)
    entry |= changes
    members[name] = json.dumps(table).encode()
    return str(entry["path_name"])


def test_an_archive_that_was_only_copied_is_fine(rewritten: Any) -> None:
    file = rewritten(lambda _: None)
    check_archive(file)
    assert open_exported(file).arch == "drn_a_18"


def test_pickled_weights(rewritten: Any, sprung: Path) -> None:
    def change(members: Members) -> None:
        name = change_table(members, WEIGHTS, use_pickle=True)
        members[f"net/data/weights/{name}"] = saved(Trap(sprung))

    assert_refused(rewritten(change), sprung, "pickled objects")


@pytest.mark.parametrize("prefix", ["custom_obj_0", "opaque_obj_0"])
@pytest.mark.parametrize("says", [True, False])
def test_pickled_constants_that_may_not_say_so(
    rewritten: Any, sprung: Path, prefix: str, says: bool
) -> None:
    def change(members: Members) -> None:
        change_table(members, CONSTANTS, use_pickle=says, path_name=prefix)
        members[f"net/data/constants/{prefix}"] = pickle.dumps(Trap(sprung))

    assert_refused(rewritten(change), sprung, "pickled objects")


def test_pictures_that_it_was_traced_with(rewritten: Any, sprung: Path) -> None:
    assert_refused(
        rewritten(lambda members: members.update({TRACED: saved(Trap(sprung))})),
        sprung,
        "pickled objects",
    )


@pytest.mark.parametrize(
    "name",
    [
        "net/data/weights/model.pt",
        "net/data/constants/model.pt",
        "net/data/aotinductor/model/model.so",
        "net/models/other.json",
    ],
)
def test_files_that_ours_do_not_have(rewritten: Any, sprung: Path, name: str) -> None:
    file = rewritten(lambda members: members.update({name: saved(Trap(sprung))}))
    assert_refused(file, sprung, name.partition("/")[2])


def test_the_older_format(rewritten: Any, sprung: Path) -> None:
    def change(members: Members) -> None:
        members |= {"version": b"8.20", "serialized_state_dict.json": saved(Trap(sprung))}

    with pytest.raises(DrnError, match=r"net\.pt2: cannot be read: file in archive is not in a "):
        open_exported(rewritten(change))
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("target", "fine"),
    [
        ("torch.ops.aten.relu.default", True),
        ("_operator.floordiv", True),
        ("torch.os.system", False),
        ("torch.hub.load", False),
        ("torch.ops.load_library", False),
        ("torch.ops.aten.relu.default.__class__", False),
        ("_operator.methodcaller", False),
        ("math.sqrt", False),
        ("#extension", False),
    ],
)
def test_what_a_graph_may_call(rewritten: Any, sprung: Path, target: str, fine: bool) -> None:
    def change(members: Members) -> None:
        graph = json.loads(members[GRAPH])
        graph["graph_module"]["graph"]["nodes"][0]["target"] = target
        members[GRAPH] = json.dumps(graph).encode()

    if fine:
        check_archive(rewritten(change))
    else:
        assert_refused(rewritten(change), sprung, f"a call of {target!r}")


def test_sizes_are_not_evaluated(rewritten: Any, sprung: Path) -> None:
    def change(members: Members) -> None:
        before, text, after = members[GRAPH].partition(b'"expr_str": "')
        code = f"__import__('os').mkdir('{sprung}') or Integer(1)"
        members[GRAPH] = before + text + code.encode() + b'", "x": "' + after

    assert_refused(rewritten(change), sprung, "the expression ")


def test_a_long_size_takes_no_time_to_refuse(rewritten: Any, sprung: Path) -> None:
    def change(members: Members) -> None:
        before, text, after = members[GRAPH].partition(b'"expr_str": "')
        members[GRAPH] = before + text + b"1" * 10_000 + b'!", "x": "' + after

    assert_refused(rewritten(change), sprung, "the expression ")


def assert_refused(file: Path, sprung: Path, what: str) -> None:
    with pytest.raises(
        DrnError, match=r"net\.pt2: refused: holds .*, which could run code"
    ) as told:
        open_exported(file)
    assert f"holds {what}" in str(told.value)
    assert "\n" not in str(told.value)
    assert not sprung.exists()


def test_the_trap_works(sprung: Path) -> None:
    """The tests above would be content with a trap that does nothing."""
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.is_dir()
