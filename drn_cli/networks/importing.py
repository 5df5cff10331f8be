"""Someone else's weight file made ours, after proof that it works."""

from dataclasses import dataclass
from pathlib import Path

import torch

from drn_cli.errors import DrnError
from drn_cli.files import sha256
from drn_cli.networks.catalog import Task, architecture
from drn_cli.networks.checkpoints import OWN_METADATA, read_checkpoint, save_weights
from drn_cli.networks.conversion import Conversion, convert
from drn_cli.networks.download import weights_folder
from drn_cli.networks.models import DRN, build
from drn_cli.networks.weights import load_converted

ENDINGS = (".zip", ".tar", ".safetensors", ".pth", ".pt")
PROBE = (1, 3, 40, 56)  # small, but with more than one position in the last map


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What was found in the file, and the file made of it.

    Attributes:
        verified: Whether a checksum shows that the source is as it was written.
    """

    format: str
    arch: str
    task: Task
    classes: int
    parameters: int
    path: Path
    sha256: str
    verified: bool


def import_weights(
    source: Path,
    out: Path | None = None,
    *,
    arch: str | None = None,
    task: Task | None = None,
    force: bool = False,
) -> ImportResult:
    """Read a file, prove that the network runs with it, and write it as safetensors.

    Args:
        source: A file of any known format.
        out: The file to write; in the cache folder, under the source's name, if left out.
        arch: Needed only for B-26, whose weights cannot be told from those of C-26.
        task: Needed only for a file that has our keys and does not say its task.
        force: Replace `out` if it exists.

    Raises:
        DrnError: The file cannot be read, fits no network, has no head, makes the network answer
            with infinities or NaN; `out` exists or cannot be written.
    """
    checkpoint = read_checkpoint(source)
    target = out or weights_folder() / f"{_stem(source.name)}.safetensors"
    if target.exists() and not force:
        raise DrnError(f"{target}: is there already", "--force replaces it, --out names another")
    converted = convert(checkpoint, source)
    if converted.width != 1:
        raise DrnError(
            f"{source}: a network of width {converted.width!r} is drn's own, and there is nothing "
            "to convert",
            "use the file as it is, or `drn export FILE --format safetensors`",
        )
    model = _network(converted, source, arch, task)
    extra = {key: text for key, text in checkpoint.metadata.items() if key not in OWN_METADATA}
    load_converted(model, converted, source)
    _prove(model, source)
    save_weights(target, model, {"source": source.name, "source_format": converted.format} | extra)
    return ImportResult(
        format=converted.format,
        arch=model.arch,
        task=model.task,
        classes=model.classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        path=target,
        sha256=sha256(target),
        verified=converted.verified,
    )


def _network(converted: Conversion, source: Path, arch: str | None, task: Task | None) -> DRN:
    name = architecture(arch).name if arch else converted.archs[0]
    if name not in converted.archs:
        raise DrnError(f"{source}: file holds {' or '.join(converted.archs)}, not {name}")
    if converted.classes is None:
        raise DrnError(
            f"{source}: has no head, only a backbone",
            "create_model and recipes take it as it is; there is nothing to convert",
        )
    if task and converted.task and task != converted.task:
        raise DrnError(f"{source}: its task is {converted.task}, not {task}")
    known = converted.task or task
    if known is None:
        raise DrnError(f"{source}: does not say what its task is", "say it with --task")
    return build(architecture(name), known, converted.classes)


@torch.inference_mode()
def _prove(model: DRN, source: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    output = model.eval()(torch.randn(PROBE, generator=generator))
    if not output.isfinite().all():
        raise DrnError(
            f"{source}: the network answers with infinities or NaN: the weights are broken"
        )


def _stem(name: str) -> str:
    while name.endswith(ENDINGS):
        name = name.rpartition(".")[0]
    return name
