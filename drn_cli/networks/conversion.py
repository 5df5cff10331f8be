"""Other people's names for the same tensors, and ours.

Ours are `backbone.layerL...` and `head.weight`, `head.bias`, for both tasks. A file is recognised
by its keys: for each known way of naming, every architecture predicts the keys that it would
have, and the one that predicts the file's keys is what the file holds.
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
COUNTER = ".num_batches_tracked"  # newer than the original; nothing here depends on it
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Conversion:
    """Weights under our names.

    Attributes:
        format: `drn`, `original`, `original segmentation`, `pytorchcv` or `torchvision`.
        archs: Architectures that the tensors fit, the likeliest first. More than one only for
            B-26 and C-26, which differ in their shortcuts and not in their weights.
        width: Channel multiplier; 1.0 in files that do not state one.
        task: None if the file does not tell.
        classes: None if the file has no head.
        tensors: `backbone.*`, and `head.weight` `(classes, C, 1, 1)` and `head.bias` if present.
        verified: As in `Checkpoint.verified`.
    """

    format: str
    archs: tuple[str, ...]
    width: float
    task: Task | None
    classes: int | None
    tensors: dict[str, Tensor]
    verified: bool


@dataclass(frozen=True, slots=True)
class _Naming:
    """A way of naming: how it is told, what it says of the task, and its name for our key."""

    format: str
    prefixes: tuple[str, ...]
    task: Task | None
    rename: Callable[[str, Architecture], str]


def _ours(key: str, arch: Architecture) -> str:
    return key


def _original(key: str, arch: Architecture) -> str:
    if key.startswith("head."):
        return key.replace("head.", "fc.", 1)
    name = key.removeprefix("backbone.")
    if arch.family != "D":
        name = name.replace("layer0.0.", "conv1.", 1).replace("layer0.1.", "bn1.", 1)
    return name


def _original_segmentation(key: str, arch: Architecture) -> str:
    """Name a tensor as the original's segmenter does: by its place among the backbone's modules."""
    if key.startswith("head."):
        return key.replace("head.", "seg.", 1)
    level, rest = _split(key)
    if arch.family == "D":
        return f"base.{level}.{rest}"
    if level == 0:
        return f"base.{rest}"
    # Convolution, batch norm and ReLU stand before level 1, and in family A a pool as well.
    return f"base.{level + (3 if arch.family == 'A' else 2)}.{rest}"


def _pytorchcv(key: str, arch: Architecture) -> str:
    """Name a tensor as pytorchcv does: stage 4 is levels 4 to 8 in a row, units count from 1."""
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


ORIGINAL = _Naming("original", ("layer0.", "conv1.", "bn1."), "classification", _original)
ORIGINAL_SEGMENTATION = _Naming(
    "original segmentation", ("base.",), "segmentation", _original_segmentation
)
NAMINGS = (
    _Naming("drn", ("backbone.",), None, _ours),
    ORIGINAL_SEGMENTATION,
    _Naming("pytorchcv", ("features.",), "classification", _pytorchcv),
    ORIGINAL,
)


def convert(checkpoint: Checkpoint, path: Path) -> Conversion:
    """Recognise a checkpoint's format and architecture, and give its tensors our names.

    Raises:
        DrnError: Not a DRN's weights, or keys that are missing, unknown or of another shape.
    """
    keys = checkpoint.tensors.keys()
    naming = next((n for n in NAMINGS if any(k.startswith(n.prefixes) for k in keys)), None)
    if naming is None:
        raise _foreign(keys, path)
    fits = sorted(
        (_compare(naming, arch, keys) for arch in _candidates(checkpoint, naming, path)),
        # A foreign file that fits both is C: nobody published weights for B.
        key=lambda fit: (len(fit.missing) + len(fit.unknown), fit.arch.family == "B"),
    )
    best = fits[0]
    if best.missing or best.unknown:
        if len(best.missing) * 2 > len(best.names):
            raise _foreign(keys, path)
        raise DrnError(f"{path}: nearly a {best.arch.name}, but {_differences(best)}")
    tensors = {
        ours: checkpoint.tensors[theirs]
        for theirs, ours in best.names.items()
        if theirs in checkpoint.tensors
    }
    classes = _check_shapes(tensors, best.arch, path)
    said = checkpoint.metadata.get("classes")
    if classes is not None and said is not None and int(said) != classes:
        raise DrnError(
            f"{path}: metadata classes: {said}, and its head has {classes}",
            "the file was changed or badly written: make it or copy it again",
        )
    return Conversion(
        format="torchvision" if naming is ORIGINAL and best.arch.family == "A" else naming.format,
        archs=tuple(fit.arch.name for fit in fits if not fit.missing and not fit.unknown),
        width=best.arch.width,
        task=None if classes is None else naming.task or _own_task(checkpoint),
        classes=classes,
        tensors=tensors,
        verified=checkpoint.verified,
    )


def to_original_keys(model: DRN) -> dict[str, Tensor]:
    """Give a network's tensors the original's names and shapes, for a file that its code reads.

    That takes what we leave out: the fixed up-sampling of a segmenter, and a shortcut of C-58
    that the original computes and throws away, as zeros. Tensors share the network's memory.
    """
    arch = model.architecture
    naming = ORIGINAL if model.task == "classification" else ORIGINAL_SEGMENTATION
    tensors = {
        naming.rename(key, arch): value.detach()
        for key, value in model.state_dict().items()
        if not key.endswith(COUNTER)
    }
    if arch.family == "A" and model.task == "classification":
        tensors["fc.weight"] = tensors["fc.weight"].flatten(1)
    if arch.name == "drn_c_58":
        weight = model.head.weight.detach()
        prefix = naming.rename("backbone.layer7.0.downsample.", arch)
        tensors[f"{prefix}0.weight"] = weight.new_zeros(512, 2048, 1, 1)
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{prefix}1.{name}"] = weight.new_zeros(512)
    if model.task == "segmentation":
        tensors["up.weight"] = upsampling_weight(model.classes).to(model.head.weight)
    return tensors


def upsampling_weight(classes: int) -> Tensor:
    """Make the original's fixed up-sampling, `(classes, 1, 16, 16)`: bilinear, by 8."""
    steps = torch.arange(2 * OUTPUT_STRIDE)
    profile = 1 - (steps / OUTPUT_STRIDE - (2 * OUTPUT_STRIDE - 1) / (2 * OUTPUT_STRIDE)).abs()
    return torch.outer(profile, profile).repeat(classes, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class _Fit:
    """How an architecture's keys and a file's compare; `names` are theirs to ours."""

    arch: Architecture
    names: dict[str, str]
    missing: list[str]
    unknown: list[str]


def _compare(naming: _Naming, arch: Architecture, keys: Iterable[str]) -> _Fit:
    present = set(keys)
    names = {naming.rename(key, arch): key for key in (*_shapes(arch), *HEAD)}
    heads = {theirs for theirs, ours in names.items() if ours in HEAD}
    # A backbone alone is welcome; half a head is not.
    optional = heads if present.isdisjoint(heads) else set()
    missing = [
        key
        for key in names
        if key not in present and key not in optional and not key.endswith(COUNTER)
    ]
    useless = ["up."]
    if arch.name == "drn_c_58":
        useless.append(naming.rename("backbone.layer7.0.downsample.0.", arch))
        useless.append(naming.rename("backbone.layer7.0.downsample.1.", arch))
    unknown = [key for key in present if key not in names and not key.startswith(tuple(useless))]
    return _Fit(arch, names, missing, sorted(unknown))


@cache
def _shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a backbone's tensors under our names."""
    with torch.device("meta"):
        state = build(arch, "classification", 1).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if key not in HEAD}


def _check_shapes(tensors: dict[str, Tensor], arch: Architecture, path: Path) -> int | None:
    """Compare all shapes, make the head a convolution, and give the number of classes."""
    classes = None
    expected = dict(_shapes(arch))
    weight = tensors.get("head.weight")
    if weight is not None:
        classes = weight.shape[0] if weight.dim() else 0
        if tuple(weight.shape) == (classes, arch.out_channels):  # a Linear, in family A
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


def _candidates(checkpoint: Checkpoint, naming: _Naming, path: Path) -> Iterable[Architecture]:
    """Give the architectures that a file may hold; a file of ours says which one it is."""
    if checkpoint.metadata.get("format") == "drn":
        width = float(checkpoint.metadata.get("width", 1.0))
        return [architecture(checkpoint.metadata["arch"], width)]
    if naming.format == "pytorchcv":  # has no family A, and names its ResNets in another way
        return [arch for arch in ARCHITECTURES.values() if arch.family != "A"]
    return ARCHITECTURES.values()


def _own_task(checkpoint: Checkpoint) -> Task | None:
    task = checkpoint.metadata.get("task")
    return next((known for known in get_args(Task) if known == task), None)


def _differences(fit: _Fit) -> str:
    parts = []
    if fit.missing:
        parts.append(f"{len(fit.missing)} keys are missing: {_list(fit.missing)}")
    if fit.unknown:
        parts.append(f"{len(fit.unknown)} keys are unknown: {_list(fit.unknown)}")
    return " and ".join(parts)


def _foreign(keys: Iterable[str], path: Path) -> DrnError:
    return DrnError(
        f"{path}: not the weights of a DRN: its keys are {_list(sorted(keys))}",
        "files of drn, of the original code, of pytorchcv and of torchvision's ResNets are known",
    )


def _list(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
