"""Conversion between our state dict keys and those of other implementations.

Our keys are `backbone.layerL...`, `head.weight` and `head.bias`, for both tasks. A file is
recognized by its keys: each architecture predicts its keys in each known naming scheme, and the
prediction that fits identifies the architecture.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.networks.backbones import RESIDUAL_LEVELS
from drn_cli.networks.catalog import ARCHITECTURES, Architecture, Task, architecture
from drn_cli.networks.checkpoints import Checkpoint
from drn_cli.networks.models import DRN, OUTPUT_STRIDE, build

HEAD = ("head.weight", "head.bias")
COUNTER = ".num_batches_tracked"  # does not exist in files of old PyTorch, and is not needed
SHOWN = 5  # keys in a message


@dataclass(frozen=True, slots=True)
class Conversion:
    """Weights under our keys."""

    format: str  # `drn`, `original`, `original segmentation`, `pytorchcv` or `torchvision`
    # Architectures that the tensors fit, the most likely first. More than one only for B-26 and
    # C-26, which differ in their shortcuts and not in their weights.
    archs: tuple[str, ...]
    width: float  # channel multiplier; 1.0 if the file does not state one
    task: Task | None  # None if the file does not state it
    classes: int | None  # None if the file has no head
    # `backbone.*`, and `head.weight` `(classes, C, 1, 1)` and `head.bias` if present
    tensors: dict[str, Tensor]
    verified: bool  # as in `Checkpoint.verified`


@dataclass(frozen=True, slots=True)
class _KeyMap:
    """A naming scheme: its prefixes and task, and the function from our keys to its keys."""

    format: str
    prefixes: tuple[str, ...]
    task: Task | None
    rename: Callable[[str, Architecture], str]


def _original(key: str, arch: Architecture) -> str:
    if key.startswith("head."):
        return key.replace("head.", "fc.", 1)
    name = key.removeprefix("backbone.")
    if arch.family != "D":
        name = name.replace("layer0.0.", "conv1.", 1).replace("layer0.1.", "bn1.", 1)
    return name


def _original_segmentation(key: str, arch: Architecture) -> str:
    """Return the key in the original's segmenter: by position among the backbone's modules."""
    if key.startswith("head."):
        return key.replace("head.", "seg.", 1)
    level, rest = _split(key)
    if arch.family == "D":
        return f"base.{level}.{rest}"
    if level == 0:
        return f"base.{rest}"
    # Level 1 follows a convolution, batch norm and ReLU, and in family A also a max-pool.
    return f"base.{level + (3 if arch.family == 'A' else 2)}.{rest}"


def _pytorchcv(key: str, arch: Architecture) -> str:
    """Return the key in pytorchcv: stage 4 is levels 4 to 8, units are numbered from 1."""
    if key.startswith("head."):
        return key.replace("head.", "output.", 1)
    level, rest = _split(key)
    index, rest = rest.split(".", 1)
    if level == 0:
        return f"features.init_block.{'conv' if index == '0' else 'bn'}.{rest}"
    before = sum(arch.blocks[3 : level - 1])
    if arch.family == "D" and level not in RESIDUAL_LEVELS:
        unit, place = divmod(int(index), 3)  # convolution, batch norm, ReLU
        inner = f"body.{'conv' if place == 0 else 'bn'}.{rest}"
    else:
        unit = int(index)
        part, rest = rest.split(".", 1)
        if part == "downsample":
            place_name, rest = rest.split(".", 1)
            inner = f"identity_conv.{'conv' if place_name == '0' else 'bn'}.{rest}"
        else:
            kind, number = part[:-1], part[-1]
            inner = f"body.conv{number}.{kind}.{rest}"
    return f"features.stage{min(level, 4)}.unit{before + unit + 1}.{inner}"


def _split(key: str) -> tuple[int, str]:
    level, rest = key.removeprefix("backbone.layer").split(".", 1)
    return int(level), rest


ORIGINAL = _KeyMap("original", ("layer0.", "conv1.", "bn1."), "classification", _original)
ORIGINAL_SEGMENTATION = _KeyMap(
    "original segmentation", ("base.",), "segmentation", _original_segmentation
)
KEY_MAPS = (
    _KeyMap("drn", ("backbone.",), None, lambda key, arch: key),
    ORIGINAL_SEGMENTATION,
    _KeyMap("pytorchcv", ("features.",), "classification", _pytorchcv),
    ORIGINAL,
)


def convert(checkpoint: Checkpoint, path: Path) -> Conversion:
    """Recognize format and architecture of a checkpoint, and rename its tensors to our keys.

    Raises:
        DrnError: Not the weights of a DRN, or keys that are missing, unknown or of another shape.
    """
    keys = checkpoint.tensors.keys()
    key_map = next((m for m in KEY_MAPS if any(k.startswith(m.prefixes) for k in keys)), None)
    if key_map is None:
        raise _not_drn(keys, path)
    # Candidate architectures. Our own files name theirs.
    if checkpoint.metadata.get("format") == "drn":
        width = float(checkpoint.metadata.get("width", 1.0))
        candidates = [architecture(checkpoint.metadata["arch"], width)]
    else:
        candidates = list(ARCHITECTURES.values())
        if key_map.format == "pytorchcv":  # has no family A; its ResNets have other keys
            candidates = [arch for arch in candidates if arch.family != "A"]
    matches = sorted(
        (_match(key_map, arch, keys) for arch in candidates),
        # For third-party files that fit both B and C, choose C: no weights of B are published.
        key=lambda match: (len(match.missing) + len(match.unknown), match.arch.family == "B"),
    )
    best = matches[0]
    if best.missing or best.unknown:
        if len(best.missing) * 2 > len(best.names):
            raise _not_drn(keys, path)
        problems = [
            f"{kind} keys ({len(names)}): {_list(names)}"
            for kind, names in (("missing", best.missing), ("unknown", best.unknown))
            if names
        ]
        raise DrnError(f"{path}: resembles {best.arch.name}, but with {' and '.join(problems)}")
    tensors = {
        ours: checkpoint.tensors[theirs]
        for theirs, ours in best.names.items()
        if theirs in checkpoint.tensors
    }
    classes = _check_shapes(tensors, best.arch, path)
    stated = checkpoint.metadata.get("classes")
    if classes is not None and stated is not None and int(stated) != classes:
        raise DrnError(
            f"{path}: metadata classes: {stated}, but its head has {classes}",
            "the file was edited or written incorrectly: create or copy it again",
        )
    task = key_map.task or next(
        (known for known in get_args(Task) if known == checkpoint.metadata.get("task")), None
    )
    torchvision = key_map is ORIGINAL and best.arch.family == "A"
    return Conversion(
        format="torchvision" if torchvision else key_map.format,
        archs=tuple(one.arch.name for one in matches if not one.missing and not one.unknown),
        width=best.arch.width,
        task=None if classes is None else task,
        classes=classes,
        tensors=tensors,
        verified=checkpoint.verified,
    )


def to_original_keys(model: DRN) -> dict[str, Tensor]:
    """Return the state dict of a network with the keys and shapes of the original code.

    Adds what our networks omit: the fixed upsampling of a segmenter, and (as zeros) a shortcut of
    C-58 that the original computes and does not use. Tensors share the network's memory.
    """
    arch = model.architecture
    key_map = ORIGINAL if model.task == "classification" else ORIGINAL_SEGMENTATION
    tensors = {
        key_map.rename(key, arch): value.detach()
        for key, value in model.state_dict().items()
        if not key.endswith(COUNTER)
    }
    if arch.family == "A" and model.task == "classification":
        tensors["fc.weight"] = tensors["fc.weight"].flatten(1)
    if arch.name == "drn_c_58":
        weight = model.head.weight.detach()
        prefix = key_map.rename("backbone.layer7.0.downsample.", arch)
        tensors[f"{prefix}0.weight"] = weight.new_zeros(512, 2048, 1, 1)
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{prefix}1.{name}"] = weight.new_zeros(512)
    if model.task == "segmentation":
        tensors["up.weight"] = upsampling_weight(model.classes).to(model.head.weight)
    return tensors


def upsampling_weight(classes: int) -> Tensor:
    """Return the original's fixed bilinear upsampling by 8, `(classes, 1, 16, 16)`."""
    steps = torch.arange(2 * OUTPUT_STRIDE)
    profile = 1 - (steps / OUTPUT_STRIDE - (2 * OUTPUT_STRIDE - 1) / (2 * OUTPUT_STRIDE)).abs()
    return torch.outer(profile, profile).repeat(classes, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class _Match:
    """Comparison of the keys of an architecture with those of a file; `names`: theirs to ours."""

    arch: Architecture
    names: dict[str, str]
    missing: list[str]
    unknown: list[str]


def _match(key_map: _KeyMap, arch: Architecture, keys: Iterable[str]) -> _Match:
    present = set(keys)
    names = {key_map.rename(key, arch): key for key in (*_shapes(arch), *HEAD)}
    heads = {theirs for theirs, ours in names.items() if ours in HEAD}
    # The head may be missing as a whole, not in part.
    optional = heads if present.isdisjoint(heads) else set()
    missing = [
        key
        for key in names
        if key not in present and key not in optional and not key.endswith(COUNTER)
    ]
    unused = ["up."]
    if arch.name == "drn_c_58":
        unused += [key_map.rename(f"backbone.layer7.0.downsample.{n}.", arch) for n in (0, 1)]
    unknown = [key for key in present if key not in names and not key.startswith(tuple(unused))]
    return _Match(arch, names, missing, sorted(unknown))


@cache
def _shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a backbone's tensors, by our keys."""
    with torch.device("meta"):
        state = build(arch, "classification", 1).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if key not in HEAD}


def _check_shapes(tensors: dict[str, Tensor], arch: Architecture, path: Path) -> int | None:
    """Check all shapes, reshape a linear head to a 1x1 convolution, and return its classes."""
    classes = None
    expected = dict(_shapes(arch))
    weight = tensors.get("head.weight")
    if weight is not None:
        classes = weight.shape[0] if weight.dim() else 0
        if tuple(weight.shape) == (classes, arch.out_channels):  # nn.Linear, in family A
            tensors["head.weight"] = weight[:, :, None, None]
        expected["head.weight"] = (classes, arch.out_channels, 1, 1)
        expected["head.bias"] = (classes,)
    wrong = [
        f"{key} is {tuple(value.shape)}, not {expected[key]}"
        for key, value in tensors.items()
        if tuple(value.shape) != expected[key]
    ]
    if wrong:
        raise DrnError(
            f"{path}: has the keys of {arch.label}, but {_list(wrong)} "
            f"({len(wrong)} of {len(tensors)} shapes differ)"
        )
    return classes


def _not_drn(keys: Iterable[str], path: Path) -> DrnError:
    return DrnError(
        f"{path}: not the weights of a DRN: its keys are {_list(sorted(keys))}",
        "supported are files of drn, the original code, pytorchcv and torchvision's ResNets",
    )


def _list(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
