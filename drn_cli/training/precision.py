"""Which numbers a run computes with, and whether through a compiler."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from drn_cli.recipe.schema import Train

Precision = Literal["fp32", "bf16", "fp16"]

# Compiling takes minutes for the deep networks, and saves a part of every step.
STEPS_WORTH_COMPILING = 5000


def resolve_precision(
    wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Precision:
    """Choose what this device can do: bfloat16, which needs no scaled gradients, or else fp16."""
    if device.type == "cpu":
        return "fp32" if wanted == "auto" else wanted
    if wanted in ("fp32", "fp16"):
        return wanted
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def resolve_compile(train: Train, device: torch.device, steps: int) -> bool:
    """Decide on torch.compile; `auto` compiles on GPUs when the run is long enough."""
    if train.compile != "auto":
        return train.compile
    long = steps >= STEPS_WORTH_COMPILING
    return device.type == "cuda" and long and not train.checkpoint_activations


def autocast_type(precision: Precision) -> torch.dtype | None:
    """Give the type that autocast computes in; None is no autocast."""
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Compute in 16 bits where that is safe."""
    kind = autocast_type(precision)
    return torch.autocast(device.type, kind, enabled=kind is not None)


def tune_gpu(train: Train) -> None:
    """Set what holds for the whole process: TF32, and trying cuDNN's ways for the crop's size."""
    torch.set_float32_matmul_precision("high" if train.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = train.tf32
    torch.backends.cudnn.benchmark = True
