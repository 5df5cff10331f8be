"""What SOURCE may be."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drn_cli.bench.cases import Size, Wanted, plan
from drn_cli.bench.cost import activation_bytes, picture_flops
from drn_cli.bench.measuring import measure
from drn_cli.bench.subject import Subject, resolve
from drn_cli.bench.timing import Effort
from drn_cli.errors import DrnError
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.runs import Run

CPU = torch.device("cpu")


def test_architecture() -> None:
    subject = resolve("DRN-A-18")
    assert (subject.name, subject.arch.name) == ("drn_a_18", "drn_a_18")
    assert (subject.task, subject.classes, subject.recipe) == ("segmentation", 19, None)
    assert (subject.verified, subject.network.verified) == (None, False)  # random, of no file
    subject = resolve("drn_a_18", "classification", 5)
    assert (subject.task, subject.classes) == ("classification", 5)
    model = create_model("drn_a_18", "classification", 5)
    assert subject.parameters == sum(weight.numel() for weight in model.parameters())


def test_run_folder(tmp_path: Path, recipe_file: Path) -> None:
    run = Run(tmp_path / "run")
    model = create_model("drn_a_18", "segmentation", 3)
    save_weights(run.best, model)
    run.recipe.write_bytes(recipe_file.read_bytes())
    subject = resolve(str(run.folder))
    assert (subject.arch.name, subject.task, subject.classes) == ("drn_a_18", "segmentation", 3)
    assert subject.recipe is not None and subject.recipe.augment.crop == 32
    assert subject.runtimes == ("pytorch", "eager")


def test_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "best.safetensors"
    save_weights(file, create_model("drn_a_18", "classification", 4))
    subject = resolve(str(file))
    assert (subject.task, subject.classes, subject.recipe) == ("classification", 4, None)
    for told_again in ({"task": "segmentation"}, {"classes": 4}):
        with pytest.raises(DrnError, match="says itself what it is"):
            resolve(str(file), **told_again)


def test_nothing_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DrnError, match="did you mean drn_d_105"):
        resolve("drn_d_1055")
    for name in ("runs/trial", "best.pt"):
        with pytest.raises(DrnError, match=f"{name}: no such run folder or file"):
            resolve(name)


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., tuple[Subject, list[tuple[int, ...]]]]:
    """Make a network of another runtime, which says what it was shown."""

    def make(task: str, **told: str) -> tuple[Subject, list[tuple[int, ...]]]:
        shown: list[tuple[int, ...]] = []

        def start(device: torch.device, threads: int, at_once: int) -> Callable[..., Tensor]:
            def run(x: Tensor, output: str) -> Tensor:
                assert output == {"segmentation": "scores", "classification": "logits"}[task]
                shown.append(tuple(x.shape))
                height, width = x.shape[2] // 8, x.shape[3] // 8
                rest = (height, width) if task == "segmentation" else ()
                return torch.zeros(len(x), 3, *rest)

            return run

        known = {"arch": "drn_a_18", "task": task, "classes": "3", "input": "float32"}
        network = ExportedNetwork(
            path=tmp_path / "network.onnx",
            metadata={**known, "outputs": "logits,scores", **told},
            runtime="ONNX Runtime 1",
            start=start,
        )
        return Subject(name="network.onnx", network=network, runtimes=("onnxruntime",)), shown

    return make


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_exported_network(exported, task: str) -> None:
    subject, shown = exported(task)
    wanted = Wanted(whats=("forward", "predict"), batches=(2,), sizes=(Size(32, 32),))
    cases = plan(subject, wanted, CPU)
    assert [(case.runtime, case.precision) for case in cases] == [("onnxruntime", None)] * 2
    for case in cases:
        shown.clear()
        row = measure(subject, case, CPU, Effort(warmup=1, rounds=2))
        assert shown == [(2, 3, 32, 32)] * 3
        assert row.times is not None and row.times.rounds == 2
        # Counted on the architecture.
        expected = resolve("drn_a_18", task, 3)
        assert row.flops == picture_flops(expected, case)
        assert row.activation_bytes == activation_bytes(expected, case)


def test_exported_network_knows_its_own_mind(exported) -> None:
    subject, _ = exported("segmentation", size="48x64")
    (case,) = plan(subject, Wanted(), CPU)
    assert case.size == Size(48, 64)
    with pytest.raises(DrnError, match="computes in what it was exported in"):
        plan(subject, Wanted(precisions=("bf16",)), CPU)
    with pytest.raises(DrnError, match="has a runtime of its own"):
        plan(subject, Wanted(compiled=True), CPU)
