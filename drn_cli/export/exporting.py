"""Export a checkpoint to another format, verify the result, and write it only if it matches."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.errors import DrnError
from drn_cli.export.facts import export_metadata
from drn_cli.export.form import ENDINGS, WEIGHTS_ONLY, ExportConfig
from drn_cli.export.int8 import calibration_inputs, quantize_onnx
from drn_cli.export.parity import Parity, compare
from drn_cli.export.probes import downscale, example_images, parity_inputs
from drn_cli.files import (
    NAME_MAX,
    clear_leftovers,
    hidden_beside,
    locked,
    scratch_folder,
    sha256,
    write_json,
)
from drn_cli.inference.export_safety import append_checksum
from drn_cli.inference.normalization import Normalization
from drn_cli.inference.opening import TrainedNetwork, open_network, read_network
from drn_cli.inference.source import Source
from drn_cli.networks.metadata import check_metadata
from drn_cli.replacing import half_replaced, move_together, restore_together

log = logging.getLogger(__name__)

IMAGES, IMAGES_FOR_INT8 = 2, 8  # number of images of the parity check, at each size
CALIBRATION_IMAGES = 30
LOCK = "exports.lock"  # 12 characters, which `clear_leftovers` requires
REPORT = ".parity.json"  # appended to the name of the file


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An exported network.

    Attributes:
        files: All files that were written, the main file last.
        network: The network that was exported.
        parity: Result of the parity check.
    """

    files: list[Path]
    network: TrainedNetwork
    parity: Parity


def export(
    source: Source,
    config: ExportConfig,
    out: Path | None = None,
    *,
    images: Sequence[str] = (),
    calibration: Sequence[str] = (),
    licence: str | None = None,
    given: Normalization | None = None,
    force: bool = False,
    on_step: Callable[[str], object] = lambda _: None,
) -> ExportResult:
    """Write a network in another format, load it back, and compare the outputs.

    Args:
        source: The checkpoint.
        config: Format, precision, inputs and outputs.
        out: The file; by default the name of the architecture, in the current folder.
        images: Files, folders or globs for the parity check; by default some of the run's
            validation images, or synthetic scenes.
        calibration: Files, folders or globs for int8; by default some of the run's training images.
        licence: License of the weights.
        given: Mean and standard deviation, instead of those of the checkpoint.
        force: Whether existing files are replaced.
        on_step: Called with a description of each step.

    Raises:
        DrnError: The checkpoint, an image or the configuration cannot be used, a package is
            missing, or the file cannot be written or fails the parity check. No file is left then.
    """
    network = read_network(source.checkpoint)
    config.check(network.architecture, network.task)
    out = out or Path(network.arch + ENDINGS[config.format])
    files = _output_files(out, config)
    if not force:
        _check_absent(files)
    count = IMAGES if config.precision != "int8" else IMAGES_FOR_INT8
    inputs = parity_inputs(*example_images(images, source, "val", count), config)
    calibration_images = []
    if config.precision == "int8":
        _, examples = example_images(calibration, source, "train", CALIBRATION_IMAGES)
        if not examples:
            raise DrnError(
                "--int8: calibration images are missing", "add about 30 images: --calibration DIR"
            )
        calibration_images = [downscale(image) for image in examples.values()]
    metadata, statistics = export_metadata(network, source, config, licence, given)
    check_metadata(metadata, out, writing=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrnError(f"{out}: cannot be written: {error.strerror or error}") from error
    busy = DrnError(f"{out}: another process is exporting to it", "wait for it, or use --out")
    with locked(hidden_beside(out, LOCK), busy) as exclusive:
        if exclusive:
            clear_leftovers(out)
        if force and restore_together(files):
            log.warning("%s: the old files that a killed export had replaced were restored", out)
        with scratch_folder(out) as folder:
            written = folder / out.name
            on_step(f"writing {out.name}")
            _write(written, network, statistics, config, metadata, calibration_images)
            on_step("comparing it with PyTorch")
            exported = open_network(written, quiet=True)
            parity = compare(network, exported, statistics, config.precision, inputs)
            if not parity.passed:
                raise DrnError(
                    f"{out}: not written: in {parity.runtime}, {parity.worst}",
                    "try another precision or format",
                )
            report = {
                "files": {path.name: sha256(path) for path in sorted(folder.iterdir())},
                "verified": network.verified,
                "arch": network.arch,
                "width": network.architecture.width,
                "task": network.task,
                "form": asdict(config),
            }
            write_json(folder / f"{out.name}{REPORT}", report | parity.to_json())
            if not force:
                _check_absent(files)  # another export may have finished meanwhile
            move_together(folder, files)
    return ExportResult(files, network, parity)


def _output_files(out: Path, config: ExportConfig) -> list[Path]:
    """Return all files of an export, the main file last."""
    report = out.with_name(f"{out.name}{REPORT}")
    size = len(os.fsencode(report.name))
    if size > NAME_MAX:
        raise DrnError(
            f"{out}: file name is {size - NAME_MAX} bytes too long ({REPORT} is appended)",
            "use a shorter --out",
        )
    # OpenVINO writes the weights to a .bin beside the .xml.
    return [*([out.with_suffix(".bin")] if config.format == "openvino" else []), report, out]


def _check_absent(files: Sequence[Path]) -> None:
    for path in files:
        if os.path.lexists(path):
            problem = "already exists"
            if half_replaced(files[-1]):
                problem = "half replaced by an interrupted export"
            raise DrnError(
                f"{path}: {problem}", "use --force to overwrite, or --out for another path"
            )


def _write(
    path: Path,
    network: TrainedNetwork,
    statistics: ChannelStats,
    config: ExportConfig,
    metadata: dict[str, str],
    calibration_images: Sequence[Pixels],
) -> None:
    """Write a network. Imports are local, as a format needs only its own packages."""
    half = config.precision == "float16"
    if config.format in WEIGHTS_ONLY:
        from drn_cli.export.weights import write_original, write_safetensors

        write = write_original if config.format == "fyu" else write_safetensors
        write(path, network.model, metadata, half=half)
        return
    from drn_cli.export.program import trace, write_program

    program = trace(network.model, statistics, config)
    calibration = calibration_inputs(calibration_images, statistics, config)
    if config.format == "pt2":
        write_program(path, program, metadata)
    elif config.format == "openvino":
        from drn_cli.export.openvino import write_openvino

        write_openvino(path, program, config.outputs, metadata, half=half, calibration=calibration)
    else:
        from drn_cli.export.onnx import write_onnx

        write_onnx(path, program, config.outputs, metadata)
        if calibration:
            quantize_onnx(path, calibration)
    if config.format != "pt2":  # a zip archive, whose records have checksums
        append_checksum(path)
