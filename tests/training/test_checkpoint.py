import io
import random
import re
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import ALONE, prepare_in

from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError, FaultError
from drn_cli.training.checkpoint import (
    TrainProgress,
    load_checkpoint,
    random_state,
    save,
    save_checkpoint,
    set_random_state,
)
from drn_cli.training.setup import TrainState

PROGRESS = TrainProgress(3, 2, 17, 0.25, [1.5, 100.0, 0.5, 2.0, 0.0])


def changed_state(recipe_file: Path, *overrides: str) -> TrainState:
    """Return a training state with changed weights, optimizer state and EMA."""
    training = prepare_in(ALONE, recipe_file, overrides)
    with torch.no_grad():
        for tensor in training.model.state_dict().values():
            tensor.add_(1)
        for state in training.optimiser.state.values():
            for value in state.values():
                value.add_(2)
        if training.averaged is not None:
            for tensor in training.averaged.state_dict().values():
                tensor.add_(3)
    return training


@pytest.fixture(scope="module")
def kept(recipe_file, tmp_path_factory):
    """A complete checkpoint; tests only read it."""
    path = tmp_path_factory.mktemp("kept") / "checkpoints" / "last.pt"
    training = changed_state(recipe_file, "train.ema=0.9")
    save_checkpoint(path, training, PROGRESS, 12.5)
    return path, training


@pytest.fixture
def saved(kept, tmp_path):
    """A copy that a test may damage."""
    path = tmp_path / "last.pt"
    path.write_bytes(kept[0].read_bytes())
    return path


def test_round_trip(kept, prepare):
    path, training = kept
    other = prepare("train.ema=0.9")
    found = load_checkpoint(path, other)
    assert found.progress == PROGRESS
    assert (found.seconds, found.processes, found.batch_size) == (12.5, 1, 4)
    for one, two in ((other.model, training.model), (other.averaged, training.averaged)):
        torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)
    states = [each.optimiser.state_dict()["state"] for each in (other, training)]
    assert states[0].keys() == states[1].keys() and states[0]
    for number, state in states[1].items():
        assert torch.equal(states[0][number]["momentum_buffer"], state["momentum_buffer"])


def test_optimizer_options_come_from_the_recipe(kept, prepare):
    """Since --allow-changes may change them, and a checkpoint of a GPU may resume on a CPU."""
    other = prepare("train.ema=0.9", "train.momentum=0.5", "train.optimiser.implementation=fused")
    load_checkpoint(kept[0], other)
    [group] = other.optimiser.param_groups
    assert (group["momentum"], group["fused"], group["foreach"]) == (0.5, True, False)


def test_an_ema_can_start_when_resuming(tmp_path, recipe_file, prepare):
    path = tmp_path / "last.pt"
    training = changed_state(recipe_file)
    save_checkpoint(path, training, PROGRESS, 0)
    other = prepare("train.ema=0.9")
    load_checkpoint(path, other)
    torch.testing.assert_close(
        other.averaged.state_dict(), training.model.state_dict(), rtol=0, atol=0
    )


def test_reports_whether_checksums_were_verified(kept, tmp_path, prepare, caplog):
    path, training = tmp_path / "last.pt", kept[1]
    for checksums in (True, False):
        torch.serialization.set_crc32_options(checksums)
        try:
            save_checkpoint(path, training, PROGRESS, 0)
        finally:
            torch.serialization.set_crc32_options(True)
        assert load_checkpoint(path, prepare("train.ema=0.9")).verified is checksums
    [record] = caplog.records
    assert record.getMessage() == f"{path}: not verified, as it holds no checksums"


def test_is_plain_data(kept):
    content = torch.load(kept[0], weights_only=True)
    assert (content["arch"], content["task"]) == ("drn_a_18", "segmentation")
    assert content["progress"] == asdict(PROGRESS)


def test_restores_random_states():
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    random.gauss(0, 1)  # leaves a second number behind
    state = random_state()
    expected = draw()
    draw()
    set_random_state(state)
    assert draw() == expected


@pytest.mark.parametrize(("rank", "restored"), [(0, True), (1, False), (2, False)])
def test_a_rank_without_a_saved_random_state_keeps_its_own(kept, prepare, rank, restored):
    saved_state = torch.load(kept[0], weights_only=True)["random"][0]["torch"]
    other = replace(prepare("train.ema=0.9"), group=Group(rank, 3, torch.device("cpu")))
    torch.manual_seed(123)
    own = torch.get_rng_state()
    load_checkpoint(kept[0], other)
    assert torch.equal(torch.get_rng_state(), saved_state if restored else own)
    assert not torch.equal(saved_state, own)


@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize("had_gpu", [False, True])
def test_restores_the_random_state_of_a_gpu(monkeypatch, had_gpu, has_gpu):
    put: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", put.append)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: "of a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: had_gpu)
    state = random_state()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    set_random_state(state)
    assert put == ["of a GPU"] * (had_gpu and has_gpu)


@pytest.mark.parametrize(("precision", "scale"), [("fp32", 1), ("bf16", 1), ("fp16", 1024)])
def test_restores_the_gradient_scale_only_in_fp16(tmp_path, recipe_file, prepare, precision, scale):
    path = tmp_path / "last.pt"
    scaled = torch.amp.GradScaler("cpu", init_scale=1024)
    scaled.scale(torch.ones(1))  # its state is made at first use
    save_checkpoint(path, replace(changed_state(recipe_file), scaler=scaled), PROGRESS, 0)
    other = replace(prepare(), precision=precision)
    load_checkpoint(path, other)
    assert other.scaler.get_scale() == scale


@pytest.mark.parametrize("kinds", [("sgd", "adamw"), ("adamw", "sgd")])
def test_refuses_another_optimizer(tmp_path, recipe_file, prepare, kinds):
    path = tmp_path / "last.pt"
    before, now = (f"train.optimiser.kind={kind}" for kind in kinds)
    save_checkpoint(path, changed_state(recipe_file, before), PROGRESS, 0)
    with pytest.raises(DrnError, match=f"was trained with {kinds[0]}, not {kinds[1]}"):
        load_checkpoint(path, prepare(now))


def test_replaces_the_earlier_checkpoint_atomically(saved, kept, monkeypatch):
    before = saved.read_bytes()

    def fail(*_: object) -> None:
        raise RuntimeError("on the way")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(RuntimeError, match="on the way"):
            save_checkpoint(saved, kept[1], PROGRESS, 0)
    assert saved.read_bytes() == before
    save_checkpoint(saved, kept[1], TrainProgress(), 0)
    assert torch.load(saved, weights_only=True)["progress"] == asdict(TrainProgress())
    assert [entry.name for entry in saved.parent.iterdir()] == ["last.pt"]


def test_a_full_disk_is_an_os_error(tmp_path):
    """PyTorch's writer raises a RuntimeError that does not name the disk."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(OSError, match="No space left"):
        save({"a": torch.zeros(1_000_000)}, full)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def spoil(kind: str, path: Path) -> None:
    content = path.read_bytes()
    match kind:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "one bit":  # of a weight: PyTorch alone would use it
            spoilt = bytearray(content)
            spoilt[len(content) // 2] ^= 64
            path.write_bytes(spoilt)
        case "compressed":
            with (
                zipfile.ZipFile(io.BytesIO(content)) as whole,
                zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
            ):
                for name in whole.namelist():
                    packed.writestr(name, whole.read(name))
        case "empty" | "noise" | "text":
            contents = {"empty": b"", "noise": bytes(range(256)) * 8, "text": b"not a checkpoint"}
            path.write_bytes(contents[kind])
        case "weights only":
            torch.save(nn.Linear(2, 2).state_dict(), path)
        case "a list":
            torch.save([1, 2], path)
        case "newer format":
            torch.save(torch.load(path, weights_only=True) | {"training_format": 99}, path)
        case "no progress" | "no random":
            good = torch.load(path, weights_only=True)
            del good[kind.removeprefix("no ")]
            torch.save(good, path)
        case "program":
            torch.save({"training_format": 2, "model": Evil()}, path)
        case "folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "cut",
        "one bit",
        "compressed",
        "noise",
        "text",
        "weights only",
        "a list",
        "newer format",
        "no progress",
        "no random",
        "program",
        "folder",
    ],
)
def test_refuses_files_that_are_not_checkpoints(saved, kind, capsys, kept):
    spoil(kind, saved)
    with pytest.raises(DrnError, match=re.escape(str(saved))) as caught:
        load_checkpoint(saved, kept[1])
    assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_a_damaged_checkpoint_hints_at_other_files(saved, kept, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(saved.read_bytes()[:-1000])
    for name, hint in (
        ("best.safetensors", r"model\.weights=.*best\.safetensors"),
        ("step-00000002.pt", r"--resume .*step-00000002\.pt"),
    ):
        (folder / name).touch()
        with pytest.raises(DrnError, match=rf"last\.pt: damaged or cut short: .*{hint}"):
            load_checkpoint(folder / "last.pt", kept[1])


def test_out_of_memory_is_not_reported_as_damage(saved, kept, monkeypatch):
    """Reading it again may succeed; no earlier checkpoint is needed."""
    last = saved.parent / "run" / "checkpoints" / "last.pt"
    last.parent.mkdir(parents=True)
    saved.rename(last)
    last.with_name("step-00000002.pt").touch()
    monkeypatch.setattr(torch, "load", Mock(side_effect=MemoryError))
    with pytest.raises(FaultError, match="out of memory") as caught:
        load_checkpoint(last, kept[1])
    assert "--resume" not in str(caught.value)


def test_refuses_the_checkpoint_of_another_architecture(saved, prepare):
    with pytest.raises(DrnError, match=r"does not fit this run: .*backbone"):
        load_checkpoint(saved, prepare("model.arch=drn_d_22"))
