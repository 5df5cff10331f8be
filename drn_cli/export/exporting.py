"""From a checkpoint to an exported file that was found to answer as it does, or to no file."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.errors import DrnError
from drn_cli.export.facts import describe
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

IMAGES, IMAGES_FOR_INT8 = 2, 8  # that are compared, of each size
CALIBRATING = 30  # images that the ranges of whole numbers are taken from
LOCK = "exports.lock"  # as `clear_leftovers` wants it
REPORT = ".parity.json"  # behind the file's own name


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A file that was written.

    Attributes:
        files: The file itself comes last, after what lies beside it.
        network: What it was made of.
        parity: How alike it answers.
    """

    files: list[Path]
    network: TrainedNetwork
    parity: Parity


def export(
    source: Source,
    form: ExportConfig,
    out: Path | None = None,
    *,
    images: Sequence[str] = (),
    calibration: Sequence[str] = (),
    licence: str | None = None,
    given: Normalization | None = None,
    force: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> ExportResult:
    """Write a network in another format, load it back, and compare.

    Args:
        source: The checkpoint.
        form: What it is to become.
        out: The file; by default the architecture's name, in the current folder.
        images: Files, folders or globs to compare on; by default some of the run's validation
            images, or drawn ones.
        calibration: The same for int8; by default some of the run's training images.
        licence: Of the weights.
        given: Mean and standard deviation, whatever the checkpoint says.
        force: Whether what is there may be replaced.
        tell: Called with each step, in words.

    Raises:
        DrnError: The checkpoint, an image or the form cannot be used, something is not installed,
            the file cannot be written, or it answers differently: then nothing is left of it.
    """
    network = read_network(source.checkpoint)
    form.check(network.task)
    out = out or Path(network.arch + ENDINGS[form.format])
    places = _places(out, form)
    if not force:
        _check_absent(places)
    count = IMAGES if form.precision != "int8" else IMAGES_FOR_INT8
    probes = parity_inputs(example_images(images, source, "val", count), form)
    calibrating = _calibrating(source, calibration) if form.precision == "int8" else []
    strings, statistics = describe(network, source, form, licence, given)
    check_metadata(strings, out, writing=True)  # what cannot be read back is not written
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrnError(f"{out}: cannot be written: {error.strerror or error}") from error
    busy = DrnError(f"{out}: another process is exporting to it", "wait for it, or use --out")
    with locked(hidden_beside(out, LOCK), busy) as alone:
        if alone:
            clear_leftovers(out)
        if force and restore_together(places):
            log.warning("%s: what a killed export had half replaced was undone", out)
        with scratch_folder(out) as folder:
            made = folder / out.name
            tell(f"writing {out.name}")
            _write(made, network, statistics, form, strings, calibrating)
            tell("comparing it with PyTorch")
            parity = compare(
                network, open_network(made, quiet=True), statistics, form.precision, probes
            )
            if not parity.passed:
                raise DrnError(
                    f"{out}: not written: in {parity.runtime}, {parity.worst}",
                    "another precision or format may do",
                )
            sums = {path.name: sha256(path) for path in sorted(folder.iterdir())}
            what = {"files": sums, "verified": network.verified, "arch": network.arch}
            what |= {"width": network.architecture.width, "task": network.task}
            what |= {"form": asdict(form)} | parity.to_json()
            write_json(folder / f"{out.name}{REPORT}", what)
            if not force:
                _check_absent(places)  # another export may have ended since
            move_together(folder, places)
    return ExportResult(places, network, parity)


def _places(out: Path, form: ExportConfig) -> list[Path]:
    """Return all files of an export, itself last."""
    report = out.with_name(f"{out.name}{REPORT}")
    size = len(os.fsencode(report.name))
    if size > NAME_MAX:
        raise DrnError(
            f"{out}: the name is too long by {size - NAME_MAX} bytes: {REPORT} is added to it",
            "--out names another",
        )
    # An .xml has its weights beside it.
    return [*([out.with_suffix(".bin")] if form.format == "openvino" else []), report, out]


def _check_absent(places: Sequence[Path]) -> None:
    """Check that an export replaces nothing."""
    for path in places:
        if os.path.lexists(path):
            problem = "exists already"
            if half_replaced(places[-1]):
                problem = "an interrupted export left it half replaced"
            raise DrnError(f"{path}: {problem}", "--force replaces it, --out names another")


def _calibrating(source: Source, named: Sequence[str]) -> list[Pixels]:
    examples = example_images(named, source, "train", CALIBRATING)
    if examples is None:
        raise DrnError(
            "--int8: needs images like those that it will see",
            "name some thirty: --calibration DIR",
        )
    return [downscale(image) for image in examples.images]


def _write(
    path: Path,
    network: TrainedNetwork,
    statistics: ChannelStats,
    form: ExportConfig,
    strings: dict[str, str],
    calibrating: Sequence[Pixels],
) -> None:
    """Write a network in its form; what a format needs is imported for it alone."""
    half = form.precision == "float16"
    if form.format in WEIGHTS_ONLY:
        from drn_cli.export.weights import write_original, write_safetensors

        write = write_original if form.format == "fyu" else write_safetensors
        write(path, network.model, strings, half=half)
        return
    from drn_cli.export.program import trace, write_program

    program = trace(network.model, statistics, form)
    inputs = calibration_inputs(calibrating, statistics, form)
    if form.format == "pt2":
        write_program(path, program, strings)
    elif form.format == "openvino":
        from drn_cli.export.openvino import write_openvino

        write_openvino(path, program, form.outputs, strings, half=half, calibrating=inputs)
    else:
        from drn_cli.export.onnx import write_onnx

        write_onnx(path, program, form.outputs, strings)
        if inputs:
            quantize_onnx(path, inputs)
    if form.format != "pt2":  # whose records have checksums
        append_checksum(path)
