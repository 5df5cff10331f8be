import subprocess
import sys

import pytest
import torch

from drn_cli.errors import DrnError
from drn_cli.inference.out_of_memory import is_out_of_memory

# Each is asked for more than the process may have.
PROVOKE = """
import resource
import numpy as np
import torch
from drn_cli.inference.out_of_memory import is_out_of_memory

small = torch.zeros(1, 8, 64, 64)
works = {
    "torch": lambda: torch.empty(1 << 36, dtype=torch.uint8),
    "python": lambda: bytearray(1 << 36),
    "numpy": lambda: np.ones(1 << 36, np.uint8),
    "interpolation": lambda: torch.nn.functional.interpolate(small, scale_factor=1000),
}
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (1 << 28)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, work in works.items():
    try:
        work()
    except Exception as error:
        print(name, is_out_of_memory(error))
"""


def test_every_way_of_running_out_of_memory_is_known() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROVOKE], capture_output=True, text=True, timeout=120, check=False
    )
    expected = ["torch True", "python True", "numpy True", "interpolation True"]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_what_gpus_and_libraries_say_is_known(error: RuntimeError) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        DrnError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_failures_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)
