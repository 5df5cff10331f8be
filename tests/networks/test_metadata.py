"""Validation of metadata, when they are read and written."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drn_cli.errors import DrnError
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import read_checkpoint, save_weights
from drn_cli.networks.metadata import check_metadata

SOUND = {
    "format": "drn",
    "arch": "drn_a_18",
    "task": "segmentation",
    "classes": "2",
    "mean": "[0, 0.5, 1]",
    "std": "[0.2, 0.00392156862745098, 1]",
    "class_names": '["road", "stra\\u00dfe"]',
    "class_folders": '["n01", "n02"]',
    "colours": "[[0, 0, 0], [255, 255, 255]]",
    "crop": "224",
    "resize": "256",
    "size": "512x1024",
    "input": "uint8",
    "outputs": "logits,scores",
    "provenance": '{"checkpoint": "best.safetensors"}',
    "licence": "CC0",
    "epoch": "any words",
}
DEEP = "[" * 100_000
BROKEN = [
    *(("width", text) for text in ("0", "-1", "4.5", "NaN", "Infinity", '"1"', "true", "wide")),
    *[("mean", text) for text in ("[NaN, 0, 0]", "[1e400, 0, 0]", "[0.5]", "[0.1, 0.2, 2]", "{}")],
    *[("mean", text) for text in ("", "[true, 0, 0]", '["0", "0", "0"]', DEEP)],
    ("mean", f"[1{'0' * 5000}, 0, 0]"),
    *[("std", text) for text in ("[0, 0.5, 0.5]", "[-1, 0.5, 0.5]", "[1e-300, 1, 1]", "null")],
    *[("colours", text) for text in ("{}", "[[0, 0, 256], [0, 0, 0]]", "[[0, 0], [0, 0]]", "[1]")],
    *[("class_names", text) for text in ("{}", "[]", "[1, 2]", "road", '["\\ud800", "b"]', DEEP)],
    ("class_folders", '"n01"'),
    *[("classes", text) for text in ("0", "-3", "1e1", "two", "2\n", "\u0662", "1" * 5000)],
    *[("crop", text) for text in ("0", "-5", "1.5", "99999")],
    ("resize", "0"),
    *[("size", text) for text in ("0x5", "512", "1" * 99 + "x5")],
    ("input", "float"),
    *[("outputs", text) for text in ("", "logits,", "probabilities")],
    *[("provenance", text) for text in ("[]", '{"a":' * 100_000)],
    ("task", "detection"),
    ("licence", "\ud800"),
]


def by_safetensors(path: Path, strings: Mapping[str, str]) -> None:
    save_file({"a": torch.ones(1)}, path, dict(strings))


def by_torch(path: Path, strings: Mapping[str, str]) -> None:
    torch.save({**strings, "state_dict": {"a": torch.ones(1)}}, path)


def by_old_torch(path: Path, strings: Mapping[str, str]) -> None:
    content = {**strings, "state_dict": {"a": torch.ones(1)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)


WRITERS = [by_safetensors, by_torch, by_old_torch]


def broken_id(value: object) -> str:
    return str(value)[:20].encode("ascii", "replace").decode()


@pytest.mark.parametrize("write", WRITERS)
def test_reads_valid_metadata(
    tmp_path: Path, write: Callable[[Path, Mapping[str, str]], None]
) -> None:
    write(tmp_path / "x", SOUND)
    assert read_checkpoint(tmp_path / "x").metadata == SOUND


@pytest.mark.parametrize(("key", "text"), BROKEN, ids=broken_id)
def test_refuses_invalid_metadata_in_every_format(tmp_path: Path, key: str, text: str) -> None:
    messages = set()
    for write in WRITERS if text.isascii() else [by_torch]:
        write(tmp_path / "x", SOUND | {key: text})
        with pytest.raises(DrnError, match=rf"x: metadata '?{key}'?: ") as caught:
            read_checkpoint(tmp_path / "x")
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 250
    with pytest.raises(DrnError, match=f"metadata '?{key}'?: "):
        check_metadata(SOUND | {key: text}, tmp_path / "y")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class_names": '["a"]'}, "numbers of classes: 1 in class_names, 2 in class_folders"),
        ({"colours": "[[0, 0, 0]]"}, "2 in class_folders, 1 in colours, 2 in classes"),
        ({"classes": "3"}, "2 in colours, 3 in classes"),
        ({"arch": "drn_e_1"}, "unknown architecture 'drn_e_1'"),
        ({"std": None}, "mean without std"),
        ({"mean": None}, "std without mean"),
        ({"task": None}, "metadata task: is missing"),
    ],
)
def test_refuses_inconsistent_metadata(changed: dict[str, str | None], message: str) -> None:
    strings = {key: text for key, text in (SOUND | changed).items() if text is not None}
    with pytest.raises(DrnError, match=message):
        check_metadata(strings, Path("x.safetensors"))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "others",
    [
        {"size": "large", "input": "image", "classes": "cat,dog", "resize": "bilinear"},
        {"size": "224x224", "input": "uint8", "classes": "2", "resize": "300", "crop": "9"},
        {"outputs": "logits", "provenance": "me", "colours": "red", "class_names": "cat"},
        {"provenance": "{}", "colours": "[[0, 0, 0]]", "class_names": '["cat", "dog"]'},
        {"width": "640", "class_folders": '["n1"]', "mean_std_guess": "imagenet"},
        {"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225"},
        {"mean": "[0.5, 0.5, 0.5]"},
        {"mean": "[124, 116, 104]", "std": "[1, 1, 1]"},
    ],
    ids=str,
)
def test_ignores_our_keys_in_files_of_other_programs(
    tmp_path: Path, write: Callable[[Path, Mapping[str, str]], None], others: dict[str, str]
) -> None:
    """Even if their values are valid."""
    strings = {"format": "pt", "arch": "resnet18", "task": "detection", "note": "any"}
    write(tmp_path / "x", strings | others)
    assert read_checkpoint(tmp_path / "x").metadata == strings


def test_uses_valid_mean_and_std_of_other_programs() -> None:
    strings = {"format": "pt", "mean": SOUND["mean"], "std": SOUND["std"]}
    assert check_metadata(strings, Path("x")) == strings


def test_refuses_to_write_invalid_metadata(tmp_path: Path) -> None:
    model = create_model("drn_a_18", "segmentation", 2)
    path = tmp_path / "best.safetensors"
    save_weights(path, model, {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"})
    before = path.read_bytes()
    with pytest.raises(
        DrnError, match=r"best\.safetensors: metadata std: expected three finite .*info\.json"
    ):
        save_weights(path, model, {"mean": "[0.5, 0.5, 0.5]", "std": json.dumps([0.5, 0.5, 0])})
    assert path.read_bytes() == before
