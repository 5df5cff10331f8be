"""Device settings and memory: precision, compilation, free memory and out-of-memory errors.

torch is imported only in the functions that need it, as `drn doctor` reads memory limits without.
"""

import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]

MIN_STEPS_TO_COMPILE = 5000  # compilation takes minutes, which shorter runs do not make up for
SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")

# torch.OutOfMemoryError is for GPUs only. The CPU allocator and other libraries raise RuntimeErrors
# that can only be recognized by their text.
OUT_OF_MEMORY = (
    "can't allocate memory",  # PyTorch on CPUs
    "not enough memory",  # PyTorch on CPUs, on other systems than Linux
    "out of memory",  # the CUDA driver
    "bad_alloc",  # C++
    "could not create a memory object",  # oneDNN
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
# oneDNN, when it cannot allocate memory for generated code. The message for an unsupported
# operation begins with the same words and is longer.
ONEDNN_OUT_OF_MEMORY = "could not create a primitive"


def resolve_precision(
    precision: Literal["auto", "fp32", "bf16", "fp16"], device: "torch.device"
) -> Precision:
    """Return the precision to use; "auto" on GPUs prefers bf16, which needs no loss scaling."""
    import torch

    if device.type == "cpu":
        return "fp32" if precision == "auto" else precision
    if precision in ("fp32", "fp16"):
        return precision
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def resolve_compile(
    compile_: bool | Literal["auto"], device: "torch.device", steps: int, *, checkpointing: bool
) -> bool:
    """Return whether to use torch.compile; `auto` is for long runs on GPUs.

    Args:
        compile_: The setting.
        device: Device of the run.
        steps: Optimizer steps of the whole run.
        checkpointing: Whether activation checkpointing is enabled; `auto` does not compile then.
    """
    if compile_ != "auto":
        return compile_
    return device.type == "cuda" and steps >= MIN_STEPS_TO_COMPILE and not checkpointing


def autocast_type(precision: Precision) -> "torch.dtype | None":
    """Return the type for autocast; None disables it."""
    import torch

    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: "torch.device", precision: Precision) -> AbstractContextManager[None]:
    """Return the autocast context of a precision."""
    import torch

    dtype = autocast_type(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def set_matmul_precision(*, tf32: bool) -> None:
    """Allow or forbid TF32 in this process, and enable cuDNN's benchmark mode."""
    import torch

    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that GPU or main memory is exhausted."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return text == ONEDNN_OUT_OF_MEMORY or any(part in text for part in OUT_OF_MEMORY)


def free_memory() -> int:
    """Return the free main memory of the machine or of the control groups, in bytes."""
    limits = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    for folder in _control_groups(CGROUP, OWN_CGROUP):
        with suppress(OSError, ValueError):  # no such file, or "max"
            used = int((folder / "memory.current").read_text())
            limits.append(int((folder / "memory.max").read_text()) - used)
    return max(0, min(limits))


def free_bytes(folder: Path) -> int:
    """Return the free disk space for a folder, which need not exist, in bytes.

    In /dev/shm, the free main memory is a limit as well.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    return min(free, free_memory()) if existing.is_relative_to(SHARED_MEMORY) else free


def core_limit(root: Path = CGROUP, process: Path = OWN_CGROUP) -> float | None:
    """Return the CPU limit of the control groups, in cores; None is no limit."""
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


def memory_limit(root: Path | None = None, process: Path = OWN_CGROUP) -> int | None:
    """Return the memory limit of the control groups, in bytes; None is no limit."""
    limits = []
    for folder in _control_groups(root or CGROUP, process):
        with suppress(OSError, ValueError):
            limits.append(int((folder / "memory.max").read_text()))
    return min(limits, default=None)


def _control_groups(root: Path, process: Path) -> list[Path]:
    """Return the folders of the process's control group and of its ancestors."""
    own = ""
    with suppress(OSError):
        for line in process.read_text().splitlines():
            if line.startswith("0::"):
                own = line.removeprefix("0::").strip("/")
    group = root / own
    return [group, *(above for above in group.parents if above.is_relative_to(root))]
