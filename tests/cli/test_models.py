"""`drn models` lists, shows, fetches and imports."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner, Result

from drn_cli.cli.models import app
from drn_cli.errors import DrnError
from drn_cli.export.exporting import export
from drn_cli.export.form import Form
from drn_cli.inference.loading import load_classifier
from drn_cli.inference.source import find_source
from drn_cli.networks import create_model, list_models
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.conversion import to_original
from drn_cli.networks.published import published
from drn_cli.networks.weights import load_weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path / "cache"


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def answer(*words: str) -> object:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def failure(*words: str) -> DrnError:
    result = run(*words)
    assert isinstance(result.exception, DrnError), result.output
    assert not result.stdout
    return result.exception


def test_lists_every_network(cache: Path) -> None:
    rows = {row["name"]: row for row in answer("list")}
    assert list(rows) == list_models()
    assert rows["drn_c_26"] == {
        "name": "drn_c_26",
        "width": 1.0,
        "family": "C",
        "parameters": 21_126_584,
        "flops": 33_942_478_848,
        "top1_error": 24.86,
        "top5_error": 7.55,
        "miou": 68.0,
        "weights": "published",
        "start_only": False,
    }
    assert [name for name in rows if rows[name]["start_only"]] == [
        *("drn_a_18", "drn_a_34", "drn_a_50")
    ]
    assert rows["drn_d_24"]["weights"] == "none"
    assert rows["drn_d_24"]["top1_error"] is rows["drn_d_24"]["miou"] is None
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / published("drn_c_26")[1].name).write_bytes(b"")
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == [
        *("name", "family", "parameters", "GFLOPs", "at", "224x224"),
        *("top-1", "error", "%", "top-5", "error", "%", "mIoU", "%", "weights"),
    ]
    numbers = ("21,126,584", "33.9", "24.86", "7.55", "68.0")
    assert ["drn_c_26", "C", *numbers, "cached"] in map(str.split, lines)
    assert ["drn_d_24", "D", "21,114,392", "33.5", "none"] in map(str.split, lines)
    assert next(line for line in lines if "drn_a_50" in line).endswith("published *")
    assert lines[-1] == (
        "* errors: paper; the available weights are a ResNet start, not this classifier"
    )


def test_networks_of_another_width(cache: Path) -> None:
    """Without the paper's scores, and without weights, which have its width."""
    rows = {row["name"]: row for row in answer("list", "--width", "0.5")}
    assert rows["drn_a_18"] == {
        "name": "drn_a_18",
        "width": 0.5,
        "family": "A",
        "parameters": 3_055_880,
        "flops": rows["drn_a_18"]["flops"],
        **dict.fromkeys(("top1_error", "top5_error", "miou")),
        "weights": "none",
        "start_only": False,
    }
    assert "errors" not in run("list", "--width", "0.5").stdout.splitlines()[-1]
    facts = answer("show", "drn_d_22", "--width", "0.5")
    assert (facts["width"], facts["out_channels"], facts["weights"]) == (0.5, 256, [])
    assert "drn_d_22 (width 0.5)" in run("show", "drn_d_22", "--width", "0.5").stdout
    assert "width 0.0: out of range" in str(failure("list", "--width", "0"))


def test_shows_a_network(cache: Path) -> None:
    facts = answer("show", "DRN-A-50")
    assert facts["name"] == "drn_a_50"
    assert (facts["block"], facts["blocks"]) == ("bottleneck", [3, 4, 6, 3])
    assert facts["parameters"] == 25_557_032
    assert facts["parameters_segmentation"] == 25_557_032 - (1000 - 19) * (2048 + 1)
    assert facts["flops"] == 38_158_729_216
    assert facts["miou"] == 67.3
    assert facts["one_crop"] == {"top1": 22.94, "top5": 6.57}
    assert facts["ten_crop"] == {"top1": 21.34, "top5": 5.74}
    assert [file["keyword"] for file in facts["weights"]] == ["imagenet", "imagenet-retrained"]
    assert facts["weights"][0]["urls"] == [
        "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    ]
    assert facts["weights"][0]["cached"] is None
    assert facts["start_only"]
    assert "paper; the available weights are a ResNet start" in run("show", "drn_a_50").stdout


def test_shows_a_network_in_plain_text(cache: Path) -> None:
    file = published("drn_d_22")[0]
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / file.name).write_bytes(b"")
    text = run("show", "drn_d_22").stdout
    for part in (
        "top-1 25.80%, top-5 8.20%",
        "26.1 GFLOPs for a picture of 224x224",
        "not published",  # over ten crops
        "68.0% on Cityscapes val",
        "https://dl.yf.io/drn/drn_d_22-4bd2f8ea.pth\n",
        "SHA256 begins 4bd2f8ea, BSD-3-Clause",
        f"cached: {cache / 'weights' / file.name}",
        "drnd22-0758-02cb44bd.pth  (imagenet-retrained, by pytorchcv, top-5 error 7.58%)",
    ):
        assert part in text
    assert "weights: none were published" in run("show", "drn_b_26").stdout
    assert "unknown architecture" in str(failure("show", "drn_x"))


def test_fetches_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "weights").mkdir(parents=True)
    for retrained, file in ((False, published("drn_d_22")[0]),
                            (True, published("drn_d_22", "imagenet-retrained")[0])):  # fmt: skip
        path = cache / "weights" / file.name
        path.write_bytes(b"as published")
        monkeypatch.setattr("drn_cli.networks.download.matches", lambda *_: True)
        flags = ["--retrained"] if retrained else []
        assert run("fetch", "drn-d-22", *flags).stdout == f"{path}\n"
        assert answer("fetch", "drn_d_22", *flags) == {
            "arch": "drn_d_22",
            "weights": "imagenet-retrained" if retrained else "imagenet",
            "path": str(path),
            "bytes": len(b"as published"),
        }
    assert "nobody published imagenet weights for drn_b_26" in str(failure("fetch", "drn_b_26"))


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_imports_a_foreign_file(tmp_path: Path, cache: Path, task: str) -> None:
    model = create_model("drn_d_22", task, 6)
    state = {f"module.{key}": value for key, value in to_original(model).items()}
    file = tmp_path / "old.pth.tar"
    torch.save({"epoch": 3, "arch": "drn_d_22", "state_dict": state, "best_prec1": 50.0}, file)
    found = answer("import", str(file))
    made = cache / "weights" / "old.safetensors"
    assert found == {
        "format": "original" if task == "classification" else "original segmentation",
        "arch": "drn_d_22",
        "task": task,
        "classes": 6,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "path": str(made),
        "sha256": hashlib.sha256(made.read_bytes()).hexdigest(),
        "verified": True,
    }
    with safe_open(made, "pt") as opened:
        metadata = opened.metadata()
    assert (metadata["format"], metadata["task"], metadata["classes"]) == ("drn", task, "6")
    assert metadata["source"] == "old.pth.tar"
    again = create_model("drn_d_22", task, 6, weights=made)
    assert not load_weights(again, made).new_head
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_an_imported_start_is_still_known_as_one(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the name of the file that was imported, whatever ours is called; also once exported."""
    file = tmp_path / published("drn_a_18", "imagenet")[0].name
    imported, exported = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    torch.save(to_original(create_model("drn_a_18", "classification", 1000)), file)
    answer("import", str(file), "--task", "classification", "--out", str(imported))
    export(find_source(file), Form(format="safetensors"), exported)
    for one in (imported, exported):
        caplog.clear()
        load_classifier(one, torch.device("cpu"))
        assert "the weights of a ResNet are a start for training drn_a_18" in caplog.text


def test_import_does_not_overwrite(tmp_path: Path) -> None:
    file, out = tmp_path / "x.pth", tmp_path / "out.safetensors"
    torch.save(to_original(create_model("drn_d_22", "segmentation", 6)), file)
    out.write_bytes(b"mine")
    error = failure("import", str(file), "--out", str(out))
    assert "is there already" in str(error)
    assert "--force" in str(error)
    assert out.read_bytes() == b"mine"
    text = run("import", str(file), "--out", str(out), "--force").stdout
    assert str(out) in text
    assert "drn_d_22" in text
    assert out.read_bytes() != b"mine"


def test_import_takes_the_architecture_that_cannot_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save(to_original(create_model("drn_b_26", "segmentation", 6)), file)
    assert answer("import", str(file))["arch"] == "drn_c_26"
    found = answer("import", str(file), "--arch", "drn-b-26", "--force")
    assert found["arch"] == "drn_b_26"
    load_weights(create_model("drn_b_26", "segmentation", 6), found["path"])
    error = failure("import", str(file), "--arch", "drn_d_22", "--force")
    assert "file holds drn_c_26 or drn_b_26, not drn_d_22" in str(error)


def test_import_asks_for_a_task_that_cannot_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"model": create_model("drn_d_22", "segmentation", 6).state_dict()}, file)
    assert "does not say what its task is (say it with --task)" in str(failure("import", str(file)))
    assert answer("import", str(file), "--task", "segmentation")["task"] == "segmentation"
    assert run("import", str(file), "--task", "detection").exit_code == 2


def test_import_refuses_a_task_that_the_file_denies(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save(to_original(create_model("drn_d_22", "segmentation", 6)), file)
    error = failure("import", str(file), "--task", "classification")
    assert "its task is segmentation, not classification" in str(error)


def test_import_keeps_what_an_own_file_says(tmp_path: Path) -> None:
    file = tmp_path / "best.safetensors"
    save_weights(file, create_model("drn_d_22", "segmentation", 2), {"class_names": '["a", "b"]'})
    with safe_open(answer("import", str(file))["path"], "pt") as opened:
        assert opened.metadata()["class_names"] == '["a", "b"]'


@pytest.mark.parametrize("flaw", ["not finite", "no head"])
def test_import_proves_the_weights_first(tmp_path: Path, cache: Path, flaw: str) -> None:
    tensors = to_original(create_model("drn_d_22"))
    if flaw == "no head":
        tensors = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
        expected = "has no head, only a backbone"
    else:
        tensors["layer5.0.bn1.weight"][3] = float("nan")
        expected = "answers with infinities or NaN"
    torch.save(tensors, tmp_path / "x.pth")
    assert expected in str(failure("import", str(tmp_path / "x.pth")))
    assert not cache.exists()


@pytest.mark.parametrize("words", [[], ["list"], ["show"], ["fetch"], ["import"]])
def test_help_has_examples(words: list[str]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert not words or f"drn models {words[0]}" in result.output


def test_help_does_not_import_torch() -> None:
    code = "import sys, drn_cli.cli.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
