import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import Checkpoint
from drn_cli.networks.conversion import convert, to_original_keys
from drn_cli.networks.models import DRN


def fill(key: str, shape: tuple[int, ...]) -> Tensor:
    """Return values computed from the key, as for the golden numbers."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key == "up.weight":
        profile = 1 - np.abs(np.arange(16) / 8 - 15 / 16)
        values = np.broadcast_to(np.outer(profile, profile), shape)
    elif key.endswith("running_var"):
        values = random.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean") or (key.endswith("bias") and len(shape) == 1):
        values = random.normal(0, 0.1, shape)
    elif len(shape) == 1:
        values = random.uniform(0.5, 1, shape)
    else:
        values = random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
    return torch.from_numpy(values.astype(np.float32))


def filled_file(arch: str, task: str = "classification") -> dict[str, Tensor]:
    """Return a state dict of the original code, with weights by formula."""
    with torch.device("meta"):
        shapes = to_original_keys(create_model(arch, task))
    return {key: fill(key, tuple(value.shape)) for key, value in shapes.items()}


def filled_network(arch: str, task: str = "classification") -> DRN:
    tensors = convert(Checkpoint(filled_file(arch, task), {}), Path("filled.pth")).tensors
    with torch.device("meta"):
        model = create_model(arch, task)
    counters = {
        key: torch.zeros((), dtype=torch.long)
        for key in model.state_dict()
        if key.endswith("num_batches_tracked")
    }
    model.load_state_dict(tensors | counters, assign=True)
    return model.eval()


def keys_digest(tensors: dict[str, Tensor]) -> dict[str, int | str]:
    lines = sorted(f"{key}:{list(value.shape)}" for key, value in tensors.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"count": len(lines), "sha256": digest}


@pytest.fixture(name="filled_network")
def _filled_network() -> Callable[..., DRN]:
    return filled_network


@pytest.fixture(name="keys_digest")
def _keys_digest() -> Callable[[dict[str, Tensor]], dict[str, int | str]]:
    return keys_digest
