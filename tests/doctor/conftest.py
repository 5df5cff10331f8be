"""What several tests of the doctor share: a machine that claims to have NVIDIA's GPUs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SMI = """#!/bin/sh
if [ "$1" = -L ]; then
    for number in $(seq 0 $(({gpus} - 1))); do
        echo "GPU $number: NVIDIA X1 (UUID: GPU-$number)"
    done
else
    echo "| NVIDIA-SMI 570.86.15       Driver Version: 570.86.15      CUDA Version: {cuda}     |"
fi
exit {code}
"""

FakeSmi = Callable[..., None]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSmi:
    """Put an `nvidia-smi` before all others that tells of GPUs."""

    def put(gpus: int = 2, cuda: str = "99.0", code: int = 0) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(SMI.format(gpus=gpus, cuda=cuda, code=code))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return put
