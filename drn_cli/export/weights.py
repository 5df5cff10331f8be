"""Weight files: our format, and that of the original code."""

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from drn_cli.networks.checkpoints import ATTACHED, CHECKSUM, VERSIONS, checksum, encode
from drn_cli.networks.conversion import to_original_keys
from drn_cli.networks.metadata import check_metadata
from drn_cli.networks.models import DRN


def write_safetensors(path: Path, model: DRN, metadata: Mapping[str, str], *, half: bool) -> None:
    """Write our own format, safetensors with metadata."""
    tensors = model.state_dict()
    path.write_bytes(encode(_halved(tensors) if half else tensors, metadata, path))


def write_original(path: Path, model: DRN, metadata: Mapping[str, str], *, half: bool) -> None:
    """Write a state dict with the original's keys, in the legacy format that old PyTorch reads."""
    tensors = to_original_keys(model)
    state = OrderedDict(_halved(tensors) if half else tensors)
    strings = check_metadata(metadata, path, writing=True)
    strings[CHECKSUM] = checksum(state, strings)
    setattr(state, VERSIONS, OrderedDict({ATTACHED: strings}))
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getbuffer())


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
