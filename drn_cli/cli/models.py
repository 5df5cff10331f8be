"""`drn models`: the architectures and their published weights."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_architecture

if TYPE_CHECKING:
    from drn_cli.networks.catalog import Architecture, PublishedErrors
    from drn_cli.networks.published import WeightFile

app = typer.Typer(
    no_args_is_help=True,
    help="List architectures; download and import weights.",
    epilog="[bold]Examples[/]\n\n"
    "  drn models list\n\n"
    "  drn models fetch drn_d_22\n\n"
    "  drn models import drn-d-105_ms_cityscapes.pth",
)

Arch = Annotated[
    str,
    typer.Argument(
        help="Name of an architecture, such as drn_d_22.", autocompletion=complete_architecture
    ),
]
Width = Annotated[
    float,
    typer.Option(
        metavar="NUMBER", help="Channel multiplier, an extension without published weights."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    "list",
    epilog="Examples:\n\n"
    "  [bold]drn models list[/]\n\n"
    "  [bold]drn models list --width 0.5[/]  half the channels",
)
def list_(width: Width = 1.0, json: Json = False) -> None:
    """List the architectures: size, FLOPs, published scores, and availability of weights.

    GFLOPs are for a 224x224 image, 2 per multiply-add. Errors are for a single crop on ImageNet,
    mIoU is on the validation split of Cityscapes. Weights are cached (in the cache folder),
    published (download them with `drn models fetch`), or none. Those of family A initialize
    training; they are not the classifier whose errors are listed.
    """
    from drn_cli.networks.catalog import architecture, list_models
    from drn_cli.networks.models import parameters
    from drn_cli.networks.profiling import forward_flops
    from drn_cli.networks.published import START_ONLY, start_only

    rows: list[dict[str, Any]] = [
        {
            "arch": arch.name,
            "width": arch.width,
            "family": arch.family,
            "parameters": parameters(arch),
            "flops": forward_flops(arch),
            **(_errors(arch.one_crop) or {"top1_error": None, "top5_error": None}),
            "miou": _fraction(arch.miou),
            "weights": _availability(arch),
            "start_only": width == 1 and start_only(arch.name),
        }
        for arch in (architecture(name, width) for name in list_models())
    ]
    if json:
        console.emit_json(rows)
        return
    numbers = ("parameters", "GFLOPs", "top-1 err %", "top-5 err %", "mIoU %")
    table = console.table("name", *numbers, "weights", right=numbers)
    for row in rows:
        table.add_row(
            row["arch"],
            f"{row['parameters']:,}",
            f"{row['flops'] / 1e9:.1f}",
            *(
                "" if row[key] is None else f"{100 * row[key]:.{digits}f}"
                for key, digits in (("top1_error", 2), ("top5_error", 2), ("miou", 1))
            ),
            f"{row['weights']}{' *' if row['start_only'] else ''}",
        )
    console.out.print(table)
    if width == 1:
        console.echo(f"* errors: {START_ONLY}")


@app.command(epilog="Example: [bold]drn models show drn_d_22[/]")
def show(arch: Arch, width: Width = 1.0, json: Json = False) -> None:
    """Show an architecture: structure, published scores, weight files and their URLs."""
    from drn_cli.networks.catalog import architecture
    from drn_cli.networks.models import parameters
    from drn_cli.networks.profiling import forward_flops
    from drn_cli.networks.published import START_ONLY, known_files, start_only

    found = architecture(arch, width)
    files = [_describe(file) for file in known_files(found.name) if width == 1]
    facts: dict[str, Any] = {
        "arch": found.name,
        "width": found.width,
        "family": found.family,
        "block": "bottleneck" if found.bottleneck else "basic",
        "blocks": list(found.blocks),
        "out_channels": found.out_channels,
        "parameters": parameters(found),
        "parameters_segmentation": parameters(found, "segmentation", 19),
        "flops": forward_flops(found),
        "one_crop": _errors(found.one_crop),
        "ten_crop": _errors(found.ten_crop),
        "miou": _fraction(found.miou),
        "files": files,
        "start_only": width == 1 and start_only(found.name),
    }
    if json:
        console.emit_json(facts)
        return
    miou = "not published" if found.miou is None else f"{found.miou:.1f}% on Cityscapes val"
    console.print_facts(
        [
            ("name", found.label),
            ("family", found.family),
            ("blocks", f"{facts['block']}, {', '.join(map(str, found.blocks))} per level"),
            ("channels", f"{found.out_channels} in the last feature map, at 1/8 of the image size"),
            ("parameters", f"{facts['parameters']:,} with 1000 classes (classification)"),
            ("", f"{facts['parameters_segmentation']:,} with 19 classes (segmentation)"),
            ("compute", f"{facts['flops'] / 1e9:.1f} GFLOPs for a 224x224 image"),
            ("1-crop error", _errors_text(found.one_crop)),
            ("10-crop error", _errors_text(found.ten_crop)),
            *([("errors of", START_ONLY)] if facts["start_only"] else []),
            ("mIoU", miou),
        ]
    )
    for file in files:
        error = file["top5_error"]
        errors = "" if error is None else f", top-5 error {100 * error:.2f}%"
        console.out.print()
        console.echo(f"{file['name']}  ({file['weights']}, by {file['source']}{errors})")
        for url in file["urls"]:
            console.echo(f"  {url}")
        checksum = file["digest"] or f"{file['algorithm'].upper()} begins {file['checksum']}"
        console.echo(f"  {checksum}, {file['licence']}")
        console.echo(f"  {'cached: ' + file['path'] if file['path'] else 'not cached'}")
    if not files:
        console.echo("weights: none published")


@app.command(
    epilog="Examples:\n\n"
    "  [bold]drn models fetch drn_d_22[/]\n\n"
    "  [bold]drn models fetch drn_d_22 --retrained[/]  lower errors, by pytorchcv\n\n"
    "  [bold]DRN_MIRRORS=http://mirror/drn drn models fetch drn_d_22[/]\n\n"
    "Files go to $DRN_CACHE/weights, or ~/.cache/drn/weights. Files that you copy\n"
    "there are used too."
)
def fetch(
    arch: Arch,
    retrained: Annotated[
        bool,
        typer.Option("--retrained", help="Retrained weights with lower errors."),
    ] = False,
    json: Json = False,
) -> None:
    """Download ImageNet weights to the cache folder and verify their checksum."""
    from drn_cli.networks.catalog import architecture
    from drn_cli.networks.weights import weights_file

    found = architecture(arch)
    keyword = "imagenet-retrained" if retrained else "imagenet"
    path = weights_file(found, keyword)
    if json:
        size = path.stat().st_size
        facts = {"arch": found.name, "weights": keyword, "path": str(path), "bytes": size}
        console.emit_json(facts)
    else:
        console.echo(str(path))


@app.command(
    "import",
    epilog="Examples:\n\n"
    "  [bold]drn models import drn-d-105_ms_cityscapes.pth[/]\n\n"
    "  [bold]drn models import drnd22-0823-5c2c6a0c.pth.zip --out d22.safetensors[/]",
)
def import_(
    file: Annotated[
        str,
        typer.Argument(help="Weight file of the original code, pytorchcv, torchvision or drn."),
    ],
    arch: Annotated[
        str | None,
        typer.Option(
            help="Needed only for drn_b_26, whose weights have the shapes of drn_c_26.",
            autocompletion=complete_architecture,
        ),
    ] = None,
    task: Annotated[
        Literal["classification", "segmentation"] | None,
        typer.Option(help="Task, for a file that does not record it."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="File to write. Default: a file in the cache folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    json: Json = False,
) -> None:
    """Convert weights of other code to safetensors, after a forward pass that checks them.

    Nothing in the file is executed; a file that contains more than tensors is refused.
    """
    from dataclasses import asdict

    from drn_cli.files import user_path
    from drn_cli.networks.importing import import_weights

    target = user_path(out) if out else None
    source = user_path(file)
    done = import_weights(source, target, arch=arch, task=task, force=force)
    facts = asdict(done)
    facts["out"] = str(facts.pop("path"))
    if json:
        console.emit_json(facts)
        return
    facts["parameters"] = f"{done.parameters:,}"
    console.print_facts((key, str(value)) for key, value in facts.items())


def _availability(arch: "Architecture") -> str:
    from drn_cli.networks.download import weights_folder
    from drn_cli.networks.published import known_files

    files = known_files(arch.name) if arch.width == 1 else ()
    if any((weights_folder() / file.name).is_file() for file in files):
        return "cached"
    return "published" if files else "none"


def _describe(file: "WeightFile") -> dict[str, Any]:
    from drn_cli.networks.catalog import KEYWORDS
    from drn_cli.networks.download import weights_folder

    path = weights_folder() / file.name
    return {
        "name": file.name,
        "weights": next(word for word, kind in KEYWORDS.items() if kind == file.kind),
        "source": file.source,
        "licence": file.licence,
        "urls": list(file.urls),
        "algorithm": file.algorithm,
        "checksum": file.checksum,
        "digest": file.digest,
        "bytes": file.size,
        "top1_error": _fraction(file.top1),
        "top5_error": _fraction(file.top5),
        "path": str(path) if path.is_file() else None,
    }


def _fraction(per_cent: float | None) -> float | None:
    """Return a published score as a fraction of 1, as all scores are in JSON."""
    return None if per_cent is None else round(per_cent / 100, 6)


def _errors(errors: "PublishedErrors | None") -> dict[str, float | None] | None:
    if errors is None:
        return None
    return {"top1_error": _fraction(errors.top1), "top5_error": _fraction(errors.top5)}


def _errors_text(errors: "PublishedErrors | None") -> str:
    return f"top-1 {errors.top1:.2f}%, top-5 {errors.top5:.2f}%" if errors else "not published"
