"""Reading weight files of any format without executing code."""

import codecs
import errno
import io
import os
import pickle
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from drn_cli.errors import DrnError
from drn_cli.integrity import check_zip
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import read_checkpoint, save_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.target,)


def assert_read(path: Path) -> None:
    found = read_checkpoint(path).tensors
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], value) for key, value in TENSORS.items())


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3},
        {"model": TENSORS, "optimizer": {"state": {}}},
        {"net": TENSORS},
        {f"module.{key}": value for key, value in TENSORS.items()},
        {"state_dict": {f"_orig_mod.module.{key}": value for key, value in TENSORS.items()}},
        {"state_dict": {f"module._orig_mod.{key}": value for key, value in TENSORS.items()}},
    ],
    ids=["plain", "state_dict", "model", "net", "ddp", "compiled ddp", "ddp of compiled"],
)
def test_reads_nested_state_dicts(tmp_path: Path, content: dict, new_format: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert_read(path)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "best", [61.5, torch.tensor(61.5), np.float64(61.5), np.float32(61.5)], ids=repr
)
def test_reads_the_original_training_checkpoints(
    tmp_path: Path, best: object, new_format: bool
) -> None:
    content = {
        "epoch": 7,
        "arch": "drn_d_22",
        "state_dict": {f"module.{key}": value for key, value in TENSORS.items()},
        "best_prec1": best,
    }
    path = tmp_path / "checkpoint_latest.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert_read(path)
    assert read_checkpoint(path).metadata == {"arch": "drn_d_22"}


def test_reads_numpy_numbers_as_numpy_1_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(
        {"state_dict": TENSORS, "best_prec1": np.float64(1.0)},
        path,
        _use_new_zipfile_serialization=False,
    )
    new_home, old_home = b"numpy._core.multiarray", b"numpy.core.multiarray"
    content = path.read_bytes()
    if new_home in content:
        path.write_bytes(content.replace(new_home, old_home))
    assert old_home in path.read_bytes()
    assert_read(path)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("member", ["x.pth", "folder/x.pth"])
def test_reads_a_zip_around_one_file(tmp_path: Path, new_format: bool, member: str) -> None:
    inner = tmp_path / "x.pth"
    torch.save(TENSORS, inner, _use_new_zipfile_serialization=new_format)
    path = tmp_path / "x.pth.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, member)
        archive.writestr("__MACOSX/._x.pth", b"")
        archive.writestr("readme.txt", "hello")
    assert_read(path)


def test_reads_safetensors_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save_file({f"module.{key}": v for key, v in TENSORS.items()}, path, {"arch": "drn_d_22"})
    assert_read(path)
    assert read_checkpoint(path).metadata == {"arch": "drn_d_22"}


def test_reads_safetensors_whose_length_looks_like_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "unlucky.safetensors"
    for length in range(300):
        save_file(TENSORS, path, {"note": "x" * length})
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        raise AssertionError("no length of the header began with 0x80")
    assert_read(path)


@pytest.mark.parametrize("wrapped", ["new", "legacy", "zip of new", "zip of legacy", "pickle"])
def test_does_not_execute_code(tmp_path: Path, wrapped: str) -> None:
    sprung = tmp_path / "sprung"
    content = {"state_dict": TENSORS, "extra": Trap(sprung)}
    path = tmp_path / "evil.pth"
    if wrapped == "pickle":
        path.write_bytes(pickle.dumps(content["extra"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=wrapped.endswith("new"))
    if wrapped.startswith("zip"):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
            archive.write(path, "evil.pth")
        path = tmp_path / "evil.zip"
    with pytest.raises(DrnError, match=r"evil.*refused.*execute code.*mkdir.*if you trust"):
        read_checkpoint(path)
    assert not sprung.exists()
    # Check that the trap works.
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


class Call:
    """Calls a function with arguments when it is unpickled."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Call(bytearray, 1 << 36), "exhaust memory .*builtin.*bytearray"),
        (Call(torch.FloatTensor, 1 << 34), "exhaust memory .*FloatTensor"),
        (Call(codecs.encode, b"a", "hex"), "exhaust memory .*_codecs.encode"),
        (Call(OrderedDict, torch.zeros(1).expand(1 << 40, 2)), "exhaust memory .*OrderedDict"),
        (torch.zeros(1).expand(1 << 20, 1 << 20), "a tensor of shape .* in 4 bytes"),
    ],
    ids=["bytearray", "tensor", "codec", "rows", "stride 0"],
)
def test_refuses_pickles_that_exhaust_memory(
    tmp_path: Path, content: object, message: str, new_format: bool
) -> None:
    path = tmp_path / "x.pth"
    state = OrderedDict(TENSORS | {"large": content})
    if isinstance(content, Tensor):  # so that a checksum is computed
        state._metadata = {"drn": {"checksum": "crc32:00000000"}}  # type: ignore[attr-defined]
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    assert path.stat().st_size < 10_000
    with pytest.raises(DrnError, match=f"x.pth: refused: .*{message}"):
        read_checkpoint(path)


@pytest.mark.parametrize("new_format", [True, False])
def test_refuses_whole_modules(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "module.pth"
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(DrnError, match=r"refused: .*torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_refuses_newer_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=protocol))
    with pytest.raises(DrnError, match=r"refused: .*could execute code"):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_refuses_programs(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:  # which identifies a TorchScript file
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", b"")
    with pytest.raises(DrnError, match="refused: a TorchScript program"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html>Moved</html>", "a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"hello, world, I am a text", "not a weight file"),
        (b"abc", "not a weight file"),
    ],
)
def test_explains_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(DrnError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.message
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x.pth", content)
    with pytest.raises(DrnError, match=message):
        read_checkpoint(tmp_path / "x.zip")


@pytest.mark.parametrize("place", [0, 8])
def test_refuses_malformed_checksums(tmp_path: Path, place: int) -> None:
    path = tmp_path / "x.safetensors"
    save_weights(path, create_model("drn_a_18", "segmentation", 2))
    content = bytearray(path.read_bytes())
    content[content.index(b"crc32:") + place] = ord("x")
    path.write_bytes(content)
    with pytest.raises(DrnError, match=r"damaged or .*: invalid checksum in its metadata: '.*'"):
        read_checkpoint(path)


class Failing(io.BytesIO):
    """A file on a failing disk."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_system_errors_are_not_damage(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match=r"x: cannot be read: Input/output error .*disk") as caught:
        check_zip(Failing(bytes(99)), Path("x"))
    assert "damaged" not in str(caught.value)
    path = tmp_path / "x.pth"
    torch.save(TENSORS, path)
    path.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(DrnError, match="cannot be read: Permission denied"):
            read_checkpoint(path)
    path.chmod(0o600)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(DrnError, match="too many open files: the limit is"):
            read_checkpoint(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_explains_missing_and_special_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DrnError, match="fifo: a pipe or device, not a weight file"):
        read_checkpoint(tmp_path / "fifo")
    with pytest.raises(DrnError, match=r"none\.pth: no such file"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(DrnError, match="a folder, not a weight file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["new", "legacy", "zip", "safetensors"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_detects_truncated_files(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / "whole"
    large = {"weight": torch.randn(64, 64)}
    if kind == "safetensors":
        save_file(large, path)
    else:
        torch.save(large, path, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
            archive.write(path, "x.pth")
        path = tmp_path / "archive"
    cut = tmp_path / "cut.pth"
    cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DrnError, match="damaged or cut short") as caught:
        read_checkpoint(cut)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < len(str(cut)) + 200


def test_detects_damage_inside_of_archives(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(64, 64)}, tmp_path / "x.pth")
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "x.pth", "x.pth")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DrnError, match="damaged or cut short"):
        read_checkpoint(path)


@pytest.mark.parametrize("members", [[], ["a.pth", "b.pth"]])
def test_an_archive_must_have_one_weight_file(tmp_path: Path, members: list[str]) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*members, "readme.txt"]:
            archive.writestr(name, b"x")
    with pytest.raises(DrnError, match=f"with {len(members)} .pth files"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "contains a list, not a state dict"),
        ({"epoch": 3, "weights": TENSORS}, "contains no state dict: 'epoch' is of type int"),
        ({"state_dict": {**TENSORS, "step": 3}}, "contains no state dict: 'step' is of type int"),
        ({}, "contains no tensors"),
        ({"state_dict": {}}, "contains no tensors"),
    ],
)
def test_explains_files_without_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(DrnError, match=message):
        read_checkpoint(tmp_path / "x.pth")


def test_writes_metadata(tmp_path: Path) -> None:
    model = create_model("drn_d_22", "segmentation", 3)
    model.to(memory_format=torch.channels_last)
    path = tmp_path / "new" / "best.safetensors"
    save_weights(path, model, {"licence": "CC0", "arch": "nonsense", "checksum": "stale"})
    with safe_open(path, "pt") as file:
        written = file.metadata()
    assert written.pop("checksum").startswith("crc32:")
    assert written == {
        "format": "drn",
        "arch": "drn_d_22",
        "width": "1.0",
        "task": "segmentation",
        "classes": "3",
        "licence": "CC0",
    }
    assert read_checkpoint(path).metadata == written
    found = read_checkpoint(path).tensors
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    assert [entry.name for entry in path.parent.iterdir()] == ["best.safetensors"]


def test_write_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DrnError, match="cannot be written"):
        save_weights(tmp_path / "file" / "x.safetensors", create_model("drn_d_22"))
