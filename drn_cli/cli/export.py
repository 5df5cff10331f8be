"""`drn export`: write a trained network for another runtime."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_weights
from drn_cli.cli.sizes import METAVAR, parse_size
from drn_cli.cli.source import Mean, Stats, Std, report_weights

if TYPE_CHECKING:
    from drn_cli.export.exporting import ExportResult
    from drn_cli.export.form import ExportConfig
    from drn_cli.inference.source import Source

EPILOG = """[bold]Examples[/]

  drn export runs/drn_d_22_camvid/2026-01-31_12-00-00 --format onnx

  drn export drn-d-105_ms_cityscapes.pth --argmax --normalize --out net.onnx

  drn export best.safetensors --format openvino --int8 --calibration photos/

  drn export best.safetensors --format pt2 --half --size 2048x1024

  drn export best.safetensors --format fyu --out for_the_original_code.pth

Each file is loaded by its own runtime and compared with PyTorch, on images
and on random pixels, at sizes other than those of the export. If the outputs
differ, no file is kept. FILE.parity.json has the comparison. `drn predict`
and `drn eval` take .onnx, .xml and .pt2 files as --weights.
"""

GRAPH = "Input and output (onnx, pt2, openvino)"


def export(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|FILE|NAME",
            autocompletion=complete_weights,
            help="Run directory, checkpoint, or architecture with published weights. Default: the "
            "newest run with a best checkpoint.",
        ),
    ] = None,
    format_: Annotated[
        Literal["onnx", "pt2", "openvino", "fyu", "safetensors"],
        typer.Option(
            "--format",
            help="fyu: weights for the original code; safetensors: ours; pt2: torch.export.",
        ),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: ./ARCH.onnx, .pt2, ...")
    ] = None,
    argmax: Annotated[
        bool,
        typer.Option(
            "--argmax",
            help="Return the class of each pixel, not the scores.",
            rich_help_panel=GRAPH,
        ),
    ] = False,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="Take uint8 pixels and normalize them inside the network.",
            rich_help_panel=GRAPH,
        ),
    ] = False,
    size: Annotated[
        Any,
        typer.Option(
            parser=parse_size,
            metavar=METAVAR,
            help="Fixed input size, such as 1920x1080. Default: any size.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    half: Annotated[
        bool,
        typer.Option(
            "--half", help="Use float16 (openvino, fyu, safetensors: for the weights only)."
        ),
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize to int8: faster on CPUs (onnx, openvino).")
    ] = False,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT",
            help="Images, folders or globs to calibrate --int8 with; may be repeated. Default: the "
            "run's training images.",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT",
            help="Images, folders or globs to compare on; may be repeated. Default: the run's "
            "validation images, or synthetic ones.",
        ),
    ] = None,
    stats: Stats = None,
    mean: Mean = None,
    std: Std = None,
    licence: Annotated[
        str | None, typer.Option(help="License of the weights, recorded in the metadata.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Export a network to ONNX, OpenVINO, torch.export or the original code, and verify it."""
    if half and int8:
        raise typer.BadParameter("--half and --int8 exclude each other")
    if calibration and not int8:
        raise typer.BadParameter("--calibration goes with --int8")

    from drn_cli.export.exporting import export as export_network
    from drn_cli.export.form import ENDINGS, ExportConfig
    from drn_cli.inference.normalization import user_normalization
    from drn_cli.inference.source import find_source

    form = ExportConfig(
        format=format_,
        argmax=argmax,
        normalize=normalize,
        precision="float16" if half else "int8" if int8 else "float32",
        size=None if size is None else size[::-1],  # height, width
    )
    if out is not None and out.suffix != ENDINGS[format_]:
        raise typer.BadParameter(f"--out {out}: should end with {ENDINGS[format_]}")
    found = find_source(source)
    report_weights(found)
    done = export_network(
        found,
        form,
        out,
        images=images or (),
        calibration=calibration or (),
        licence=licence,
        given=user_normalization(stats, mean, std),
        force=force,
        on_step=console.note,
    )
    _report(done, found, form, as_json)


def _report(done: "ExportResult", found: "Source", form: "ExportConfig", as_json: bool) -> None:
    file = done.files[-1]
    if as_json:
        console.emit_json(
            {
                "out": str(file),
                "files": [str(path) for path in done.files],
                **found.to_json(),
                "verified": done.network.verified,
                "arch": done.network.arch,
                "width": done.network.architecture.width,
                "task": done.network.task,
                "format": form.format,
                "argmax": form.argmax,
                "normalize": form.normalize,
                "size": form.size and form.size[::-1],  # width, height
                **done.parity.to_json(),
            }
        )
        return
    numbers = ("difference", "largest logit", "same class")
    table = console.table("compared on", "images", *numbers, right=numbers)
    for one in done.parity.comparisons:
        count, _, height, width = one.shape
        table.add_row(
            one.inputs,
            f"{count} of {width}x{height}",
            "" if one.difference is None else f"{one.difference:.1e}",
            f"{one.largest:.1f}",
            f"{100 * one.agreement:.3f} %",
        )
    console.out.print(table)
    size = sum(path.stat().st_size for path in done.files) / 1e6
    network = done.network.architecture.label
    what = f"{file}: {network}, {done.network.task}, {form.precision}, {size:.1f} MB"
    console.out.print(f"{what}, checked in {done.parity.runtime}", soft_wrap=True)
