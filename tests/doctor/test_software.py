"""Versions that are too old, that do not go together, and packages that are broken."""

import re
import sys
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from drn_cli.doctor import software
from drn_cli.doctor.nvidia import Nvidia


def test_what_is_needed_is_what_pyproject_says() -> None:
    file = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    asked = dict(re.findall(r"^([\w-]+)>=(.*)$", "\n".join(project["dependencies"]), re.MULTILINE))
    assert software.release(project["requires-python"].lstrip(">=")) == software.PYTHON
    assert software.release(asked["torch"]) == software.TORCH
    assert software.release(asked["torchvision"]) == software.TORCHVISION
    assert set(software.COMPILED) <= set(asked)


def test_this_installation_is_fine() -> None:
    for check in (software.python, software.torch, software.torchvision, software.packages):
        finding = check()
        assert (finding.status, finding.remedy) == ("ok", None), finding
    assert f"numpy {np.__version__}" in finding.found


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    finding = software.python()
    assert finding.status == "failure"
    assert finding.remedy == "drn needs Python 3.11 or newer"


def test_an_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    finding = software.torch()
    assert (finding.status, finding.found) == ("failure", "2.9.1+cu128 is too old")
    assert finding.remedy == "pip install -U 'torch>=2.11' 'torchvision>=0.26'"


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_what_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    finding = getattr(software, name)()
    assert finding.status == "failure"
    assert "cannot be imported" in finding.found
    assert f"import of {name} halted" in finding.found
    assert "pip install" in finding.remedy


def test_a_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision, "__version__", "0.20.1")
    monkeypatch.setattr(software, "version", lambda _: "2.12.0")
    finding = software.torchvision()
    assert finding.status == "warning"  # its compiled part does answer
    assert finding.found == "0.20.1 works, but is not made for torch 2.12.0"
    assert "'torchvision==0.27.*'" in finding.remedy


@pytest.mark.parametrize("answer", ["raises", "wrong"])
def test_a_torchvision_whose_compiled_part_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    def nms(boxes, scores, threshold):
        if answer == "raises":
            raise RuntimeError("operator torchvision::nms does not exist\nat all")
        return torch.tensor([1])

    monkeypatch.setattr("torchvision.ops.nms", nms)
    finding = software.torchvision()
    assert finding.status == "failure"
    said = "operator torchvision::nms does not exist" if answer == "raises" else "keeps [1]"
    assert said in finding.found
    assert "at all" not in finding.found
    assert "torchvision==0." in finding.remedy


def test_packages_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    (tmp_path / "imagecodecs.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = software.packages()
    assert finding.status == "failure"
    assert "opencv-python-headless cannot be imported: ImportError: libGL.so.1" in finding.found
    assert "imagecodecs cannot be imported: it ended with -6" in finding.found
    assert "numpy" not in finding.found
    assert finding.remedy == "pip install --force-reinstall opencv-python-headless imagecodecs"


def test_packages_that_take_long_are_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("import time; time.sleep(1000)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = software.packages(timeout=1)
    assert finding.status == "warning"
    assert "opencv-python-headless" in finding.found
    assert finding.found.endswith("took longer than 1 seconds")
    assert "less busy" in finding.remedy


@pytest.mark.parametrize(("text", "expected"), [("2.11.0+cu130", (2, 11)), ("3.0a0", (3, 0))])
def test_release(text: str, expected: tuple[int, int]) -> None:
    assert software.release(text) == expected
    with pytest.raises(ValueError, match="'main' is not a version"):
        software.release("main")


@dataclass
class Cuda:
    """A machine whose torch and GPUs are as a test wants them."""

    patch: pytest.MonkeyPatch

    def build(self, cuda: str | None, available: bool, says: str | None = None) -> None:
        """Say what torch was built for, and whether it sees a GPU, perhaps with a warning."""

        def is_available() -> bool:
            if says:
                warnings.warn(says, stacklevel=1)
            return available

        self.patch.setattr(torch.version, "cuda", cuda)
        self.patch.setattr(torch.cuda, "is_available", is_available)

    def has(self, *about: object) -> None:
        self.patch.setattr(software, "nvidia", lambda: Nvidia(*about))

    def found(self) -> tuple[str, str]:
        finding = software.cuda()
        assert (finding.remedy is None) == (finding.status == "ok")
        return finding.status, finding.found


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = Cuda(monkeypatch)
    made.build("13.0", False)
    return made


def test_no_gpu(cuda: Cuda) -> None:
    cuda.has(0)
    assert cuda.found() == ("ok", "torch is built for CUDA 13.0; no NVIDIA GPU here")
    cuda.build(None, False)
    assert cuda.found() == ("ok", "torch is built for CPUs; no NVIDIA GPU here")


def test_a_gpu_that_fits(cuda: Cuda) -> None:
    cuda.has(1, "580.65", "13.0")
    cuda.build("13.0", True)
    assert cuda.found() == ("ok", "torch is built for CUDA 13.0, and the driver (580.65) fits")


def test_a_build_for_cpus_beside_a_gpu(cuda: Cuda) -> None:
    cuda.has(2, "580.65", "13.0")
    cuda.build(None, False)
    said = "torch is built for CPUs, and this machine has 2 NVIDIA GPU(s)"
    assert cuda.found() == ("warning", said)


def test_a_build_for_rocm(cuda: Cuda) -> None:
    cuda.has(0)
    cuda.build(None, True)
    status, found = cuda.found()
    assert status == "ok"
    assert "ROCm" in found


def test_an_old_driver(cuda: Cuda, nvidia_smi) -> None:
    nvidia_smi(gpus=1, cuda="12.4")
    said = "torch is built for CUDA 13.0, but the driver (570.86.15) is for CUDA 12.4 at most"
    assert cuda.found() == ("failure", said)


@pytest.mark.parametrize("value", ["", "-1"])
def test_gpus_that_are_hidden(cuda: Cuda, value: str) -> None:
    cuda.has(4, "580.65", "13.0")
    cuda.patch.setenv("CUDA_VISIBLE_DEVICES", value)
    said = f"CUDA_VISIBLE_DEVICES={value} hides the 4 NVIDIA GPU(s) of this machine"
    assert cuda.found() == ("warning", said)


def test_gpus_that_do_not_answer(cuda: Cuda) -> None:
    cuda.has(4)
    cuda.patch.setenv("CUDA_VISIBLE_DEVICES", "9")
    cuda.build("13.0", False, says="CUDA initialization: Unexpected error\nmore")
    said = (
        "torch, built for CUDA 13.0, cannot use the 4 NVIDIA GPU(s) here "
        "with CUDA_VISIBLE_DEVICES=9: CUDA initialization: Unexpected error"
    )
    assert cuda.found() == ("failure", said)
