"""Published weight files, as data.

The host of the authors is offline. A set of weights is therefore a list of equivalent files: first
that of the authors, then the same weights as redistributed by pytorchcv with other keys.
"""

from dataclasses import dataclass
from typing import Literal

from drn_cli.errors import DrnError
from drn_cli.networks.catalog import ARCHITECTURES, KEYWORDS, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One file of ImageNet weights."""

    arch: str
    # `original`: the weights of the paper's authors (in family A, of the ResNet that it is based
    # on). `retrained`: retrained by others.
    kind: Kind
    name: str  # file name in the cache folder
    urls: tuple[str, ...]
    archived: bool = False  # whether the URLs serve a zip archive that contains the file
    algorithm: Literal["sha256", "sha1"]  # algorithm of the checksum
    # Leading hexadecimal digits of the checksum of the unpacked file. They detect damage, but can
    # be forged within an hour.
    checksum: str
    # Full digest of the unpacked file, `sha256:...` or `sha384:...`, if several sources confirm it
    digest: str | None = None
    size: int | None = None  # size of the unpacked file in bytes, if known
    # ImageNet validation errors in percent for one center crop, as stated by the source
    top1: float | None = None
    top5: float | None = None
    source: str  # publisher of the file
    licence: str  # license of the publisher's code; the terms of ImageNet apply besides

    @property
    def download_names(self) -> tuple[str, ...]:
        """File names on a mirror."""
        return (f"{self.name}.zip",) if self.archived else (self.name,)


def _original(arch: str, checksum: str) -> WeightFile:
    name = f"{arch}-{checksum}.pth"
    errors = ARCHITECTURES[arch].one_crop
    return WeightFile(
        arch=arch,
        kind="original",
        name=name,
        # Offline for years. HTTPS first, in case the host comes back.
        urls=(f"https://dl.yf.io/drn/{name}", f"http://dl.yf.io/drn/{name}"),
        algorithm="sha256",
        checksum=checksum,
        top1=errors.top1 if errors else None,
        top5=errors.top5 if errors else None,
        source="the paper's authors",
        licence="BSD-3-Clause",
    )


def _pytorchcv(arch: str, kind: Kind, tag: str, error: str, checksum: str) -> WeightFile:
    """Return a file of pytorchcv's releases; `error` is the top-5 error in 1/100 percent."""
    name = f"{arch.replace('_', '')}-{error}-{checksum}.pth"
    return WeightFile(
        arch=arch,
        kind=kind,
        name=name,
        urls=(f"https://github.com/osmr/imgclsmob/releases/download/{tag}/{name}.zip",),
        archived=True,
        algorithm="sha1",
        checksum=checksum,
        top5=int(error) / 100,
        source="pytorchcv",
        licence="MIT",
    )


def _torchvision(
    arch: str, kind: Kind, resnet: str, digest: str, size: int | None = None
) -> WeightFile:
    """Return a file of torchvision; `digest` is its SHA-256, in full or its first 8 digits."""
    # Without errors: those of torchvision are for the ResNet, whose last levels are not dilated.
    checksum = digest[:8]
    name = f"{resnet}-{checksum}.pth"
    return WeightFile(
        arch=arch,
        kind=kind,
        name=name,
        urls=(f"https://download.pytorch.org/models/{name}",),
        algorithm="sha256",
        checksum=checksum,
        digest=f"sha256:{digest}" if len(digest) == 64 else None,
        size=size,
        source="torchvision",
        licence="BSD-3-Clause",
    )


RESNET_18 = "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"
RESNET_50 = "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a"
RESNET_50_RETRAINED = "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca"

# Note beside the paper's errors of an architecture that is `start_only`.
START_ONLY = "paper; the available weights are a ResNet start, not this classifier"

PUBLISHED = (
    _torchvision("drn_a_18", "original", "resnet18", RESNET_18, 46_830_571),
    _torchvision("drn_a_34", "original", "resnet34", "b627a593"),
    _torchvision("drn_a_50", "original", "resnet50", RESNET_50, 102_530_333),
    _torchvision("drn_a_50", "retrained", "resnet50", RESNET_50_RETRAINED, 102_540_417),
    _original("drn_c_26", "ddedf421"),
    _original("drn_c_42", "9d336e8c"),
    _original("drn_c_58", "0a53a92c"),
    _original("drn_d_22", "4bd2f8ea"),
    _original("drn_d_38", "eebb45f0"),
    _original("drn_d_54", "0e0534ff"),
    _original("drn_d_105", "12b40979"),
    _pytorchcv("drn_c_26", "original", "v0.0.116", "0755", "35405bd5"),
    _pytorchcv("drn_c_42", "original", "v0.0.116", "0657", "7c99c460"),
    _pytorchcv("drn_c_58", "original", "v0.0.116", "0601", "70ec1f56"),
    _pytorchcv("drn_d_22", "original", "v0.0.116", "0823", "5c2c6a0c"),
    _pytorchcv("drn_d_38", "original", "v0.0.116", "0695", "4630f0fb"),
    _pytorchcv("drn_d_54", "original", "v0.0.116", "0586", "bfdc1f88"),
    _pytorchcv("drn_d_105", "original", "v0.0.116", "0548", "a643f4dc"),
    _pytorchcv("drn_c_26", "retrained", "v0.0.508", "0723", "e7306483"),
    _pytorchcv("drn_c_42", "retrained", "v0.0.556", "0628", "8817241f"),
    _pytorchcv("drn_c_58", "retrained", "v0.0.559", "0527", "3f74be98"),
    _pytorchcv("drn_d_22", "retrained", "v0.0.498", "0758", "02cb44bd"),
    _pytorchcv("drn_d_38", "retrained", "v0.0.552", "0643", "496f648b"),
    _pytorchcv("drn_d_54", "retrained", "v0.0.554", "0517", "caa3c85d"),
    _pytorchcv("drn_d_105", "retrained", "v0.0.564", "0501", "8dc6aa76"),
)


def known_files(arch: str) -> tuple[WeightFile, ...]:
    """Return all files of an architecture, in order of preference."""
    return tuple(file for file in PUBLISHED if file.arch == arch)


def published(arch: str, keyword: str = "imagenet") -> tuple[WeightFile, ...]:
    """Return the files for `imagenet` or `imagenet-retrained`, in order of preference.

    Raises:
        DrnError: There are none for the architecture.
    """
    kind = KEYWORDS[keyword]
    files = tuple(file for file in known_files(arch) if file.kind == kind)
    if not files:
        others = list(dict.fromkeys(file.arch for file in PUBLISHED if file.kind == kind))
        raise DrnError(
            f"no {keyword} weights are published for {arch}",
            f"they exist for {', '.join(others)}; or use a weight file",
        )
    return files


def published_as(*names: str | None) -> WeightFile | None:
    """Return the published file with one of these names, or with that of its archive.

    Args:
        names: Name of a file, and the `source` in its metadata, which is the name of the file that
            `drn models import` has read.
    """
    bare = {name.removesuffix(".zip") for name in names if name is not None}
    return next((file for file in PUBLISHED if file.name in bare), None)


def is_start(*names: str | None) -> bool:
    """Return whether a file with one of these names has ResNet weights, see `start_only`."""
    known = published_as(*names)
    return known is not None and known.source == "torchvision"


def start_only(arch: str) -> bool:
    """Return whether the published weights of an architecture are only a start for training.

    Those of family A are torchvision's ResNets. A DRN-A has the same tensors but other dilations,
    so with these weights it is not the classifier whose errors the paper states. They initialize
    the training of a segmenter, as in the original code. Evaluation, prediction and localization
    warn about them (`load_classifier`).
    """
    return any(file.source == "torchvision" for file in known_files(arch))
