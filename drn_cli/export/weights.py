"""Files of weights alone: ours, and those of the original code."""

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.networks.checkpoints import ATTACHED, CHECKSUM, VERSIONS, checksum, encode
from drn_cli.networks.conversion import to_original_keys
from drn_cli.networks.metadata import check_metadata
from drn_cli.networks.models import DRN


def write_safetensors(path: Path, model: DRN, told: Mapping[str, str], *, half: bool) -> None:
    """Write our own format, with what the file says of itself."""
    tensors = model.state_dict()
    path.write_bytes(encode(_halved(tensors) if half else tensors, told, path))


def write_original(path: Path, model: DRN, told: Mapping[str, str], *, half: bool) -> None:
    """Write a plain state dict with the original's names, in a way that old PyTorch reads.

    Raises:
        DrnError: The original code does not have such a network.
    """
    if model.width != 1:
        raise DrnError(
            f"{model.architecture.label}: the original code has width 1.0 only",
            "--format safetensors takes any width",
        )
    if model.architecture.family == "B":
        raise DrnError(f"{model.arch}: the original code has no DRN-B", "the others can be given")
    tensors = to_original_keys(model)
    state = OrderedDict(_halved(tensors) if half else tensors)
    strings = check_metadata(told, path, writing=True)
    strings[CHECKSUM] = checksum(state, strings)
    setattr(state, VERSIONS, OrderedDict({ATTACHED: strings}))
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getbuffer())


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
