"""Questions about the device and its memory: precision, compilation, what is free, what ran out.

torch is imported where it is used, so that `drn doctor` can ask about memory without it.
"""

import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]

MIN_STEPS_TO_COMPILE = 5000  # compiling a deep network takes minutes and saves a part of each step
SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")

# torch.OutOfMemoryError is for GPUs only. The CPU allocator and the libraries below it raise
# RuntimeErrors that differ in their text only.
OUT_OF_MEMORY = (
    "can't allocate memory",  # PyTorch on CPUs
    "not enough memory",  # the same, on systems other than Linux
    "out of memory",  # the CUDA driver
    "bad_alloc",  # C++
    "could not create a memory object",  # oneDNN
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
# oneDNN, when it cannot allocate its generated code. Its message for an unsupported operation
# begins with the same words and goes on.
ONEDNN_OUT_OF_MEMORY = "could not create a primitive"


def resolve_precision(
    precision: Literal["auto", "fp32", "bf16", "fp16"], device: "torch.device"
) -> Precision:
    """Return the precision that a device supports: bf16 needs no loss scaling, fp16 is second."""
    import torch

    if device.type == "cpu":
        return "fp32" if precision == "auto" else precision
    if precision in ("fp32", "fp16"):
        return precision
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def resolve_compile(
    compile_: bool | Literal["auto"], device: "torch.device", steps: int, *, checkpointing: bool
) -> bool:
    """Decide on torch.compile; `auto` compiles on GPUs when the run is long enough.

    Args:
        compile_: The setting.
        device: Where the run computes.
        steps: Optimizer steps of the whole run.
        checkpointing: Whether activations are recomputed; `auto` does not compile then.
    """
    if compile_ != "auto":
        return compile_
    return device.type == "cuda" and steps >= MIN_STEPS_TO_COMPILE and not checkpointing


def autocast_type(precision: Precision) -> "torch.dtype | None":
    """Return the type that autocast computes in; None is no autocast."""
    import torch

    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: "torch.device", precision: Precision) -> AbstractContextManager[None]:
    """Compute in 16 bits where that is safe."""
    import torch

    dtype = autocast_type(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def set_matmul_precision(*, tf32: bool) -> None:
    """Allow or forbid TF32 in this process, and let cuDNN search the fastest convolutions."""
    import torch

    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that GPU or main memory is used up."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return text == ONEDNN_OUT_OF_MEMORY or any(part in text for part in OUT_OF_MEMORY)


def free_memory() -> int:
    """Return the bytes of main memory that the machine, or the container around us, has left."""
    limits = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):  # no control group, or one without a limit
        limit = int((CGROUP / "memory.max").read_text())
        limits.append(limit - int((CGROUP / "memory.current").read_text()))
    return max(0, min(limits))


def free_bytes(folder: Path) -> int:
    """Return the bytes that can still be written below a folder, which need not exist.

    Files in shared memory take memory, so the free memory is a limit there as well.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    return min(free, free_memory()) if existing.is_relative_to(SHARED_MEMORY) else free


def core_limit(root: Path = CGROUP, process: Path = OWN_CGROUP) -> float | None:
    """Return the CPU time limit that control groups set, in cores; None is no limit."""
    limits = []
    for folder in _control_groups(root, process):
        with suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            limits.append(quota / period)
    with suppress(OSError, ValueError):  # cgroup v1
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            limits.append(quota / int((root / "cpu" / "cpu.cfs_period_us").read_text()))
    return min(limits, default=None)


def memory_limit(root: Path = CGROUP, process: Path = OWN_CGROUP) -> int | None:
    """Return the memory limit that control groups set, in bytes; None is no limit."""
    limits = []
    for folder in _control_groups(root, process):
        with suppress(OSError, ValueError):
            limits.append(int((folder / "memory.max").read_text()))
    return min(limits, default=None)


def _control_groups(root: Path, process: Path) -> list[Path]:
    """List the process's own control group and those above it, each of which may have limits."""
    own = ""
    with suppress(OSError):
        for line in process.read_text().splitlines():
            if line.startswith("0::"):
                own = line.removeprefix("0::").strip("/")
    group = root / own
    return [group, *(above for above in group.parents if above.is_relative_to(root))]
