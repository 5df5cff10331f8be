"""`drn models import`: convert a weight file of another program, after a test run."""

import re
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

ENDINGS = re.compile(r"(\.(zip|tar|safetensors|pth|pt))+$")
PROBE = (1, 3, 40, 56)  # small, but with more than one position in the last map


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Content of the source, and the file that was written."""

    format: str
    arch: str
    task: Task
    classes: int
    parameters: int
    path: Path
    sha256: str
    verified: bool  # whether a checksum confirms that the source is as it was written


def import_weights(
    source: Path,
    out: Path | None = None,
    *,
    arch: str | None = None,
    task: Task | None = None,
    force: bool = False,
) -> ImportResult:
    """Read a weight file, check that the network runs with it, and write it as safetensors.

    Args:
        source: A file of any known format.
        out: The file to write; by default in the cache folder, with the name of the source.
        arch: Needed only for B-26, whose weights have the same keys and shapes as those of C-26.
        task: Needed only for a file with our keys that does not state its task.
        force: Replace `out` if it exists.

    Raises:
        DrnError: The file cannot be read, fits no network, has no head, or gives NaN or infinite
            outputs; `out` exists or cannot be written.
    """
    checkpoint = read_checkpoint(source)
    target = out or weights_folder() / f"{ENDINGS.sub('', source.name)}.safetensors"
    if target.exists() and not force:
        raise DrnError(
            f"{target}: already exists", "use --force to overwrite, or --out for another path"
        )
    converted = convert(checkpoint, source)
    if converted.width != 1:
        raise DrnError(
            f"{source}: width {converted.width!r} exists in files of drn only: nothing to convert",
            "use the file directly, or `drn export FILE --format safetensors`",
        )
    model = _network(converted, source, arch, task)
    extra = {key: text for key, text in checkpoint.metadata.items() if key not in OWN_METADATA}
    load_converted(model, converted, source)
    with torch.inference_mode():
        output = model.eval()(torch.randn(PROBE, generator=torch.Generator().manual_seed(0)))
    if not output.isfinite().all():
        raise DrnError(f"{source}: the outputs are NaN or infinite", "the weights are broken")
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
        raise DrnError(f"{source}: contains {' or '.join(converted.archs)}, not {name}")
    if converted.classes is None:
        raise DrnError(
            f"{source}: a backbone without head: nothing to convert",
            "use the file directly, in create_model or as model.weights",
        )
    if task and converted.task and task != converted.task:
        raise DrnError(f"{source}: its task is {converted.task}, not {task}")
    known = converted.task or task
    if known is None:
        raise DrnError(f"{source}: the task is not stated", "add --task")
    return build(architecture(name), known, converted.classes)
