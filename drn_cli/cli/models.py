"""`drn models`: the fifteen networks and their published weights."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_architecture

if TYPE_CHECKING:
    from drn_cli.networks.catalog import Architecture, PublishedErrors
    from drn_cli.networks.published import WeightFile

app = typer.Typer(no_args_is_help=True, help="The networks, and weights that others published.")

Arch = Annotated[
    str,
    typer.Argument(
        help="A network's name, such as drn_d_22.", autocompletion=complete_architecture
    ),
]
Width = Annotated[
    float,
    typer.Option(
        metavar="NUMBER", help="Channel multiplier, an extension; no weights were published for it."
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
    """List the networks: size, arithmetic, published scores, and whether weights are at hand.

    GFLOPs are those of a 224x224 image, 2 for each multiply-add. Errors are those of one crop on
    ImageNet, mIoU is that on the validation images of Cityscapes. Weights are cached (in the
    cache folder), published (`drn models fetch` gets them), or none. Those of family A are a start
    for training, not the classifier whose errors are listed.
    """
    from drn_cli.networks.catalog import architecture, list_models
    from drn_cli.networks.models import parameters
    from drn_cli.networks.profiling import forward_flops
    from drn_cli.networks.published import START_ONLY, start_only

    rows: list[dict[str, Any]] = [
        {
            "name": arch.name,
            "width": arch.width,
            "family": arch.family,
            "parameters": parameters(arch),
            "flops": forward_flops(arch),
            "top1_error": arch.one_crop.top1 if arch.one_crop else None,
            "top5_error": arch.one_crop.top5 if arch.one_crop else None,
            "miou": arch.miou,
            "weights": _at_hand(arch),
            "start_only": width == 1 and start_only(arch.name),
        }
        for arch in (architecture(name, width) for name in list_models())
    ]
    if json:
        console.emit_json(rows)
        return
    numbers = ("parameters", "GFLOPs at 224x224", "top-1 error %", "top-5 error %", "mIoU %")
    table = console.table("name", "family", *numbers, "weights", right=numbers)
    for row in rows:
        table.add_row(
            row["name"],
            row["family"],
            f"{row['parameters']:,}",
            f"{row['flops'] / 1e9:.1f}",
            *(
                "" if row[key] is None else f"{row[key]:.{digits}f}"
                for key, digits in (("top1_error", 2), ("top5_error", 2), ("miou", 1))
            ),
            f"{row['weights']}{' *' if row['start_only'] else ''}",
        )
    console.out.print(table)
    if width == 1:
        console.echo(f"* errors: {START_ONLY}")


@app.command(epilog="Example: [bold]drn models show drn_d_22[/]")
def show(arch: Arch, width: Width = 1.0, json: Json = False) -> None:
    """Show all that is known of a network: structure, scores, weight files and their addresses."""
    from drn_cli.networks.catalog import architecture
    from drn_cli.networks.models import parameters
    from drn_cli.networks.profiling import forward_flops
    from drn_cli.networks.published import START_ONLY, known_files, start_only

    found = architecture(arch, width)
    files = [_describe(file) for file in known_files(found.name) if width == 1]
    facts: dict[str, Any] = {
        "name": found.name,
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
        "miou": found.miou,
        "weights": files,
        "start_only": width == 1 and start_only(found.name),
    }
    if json:
        console.emit_json(facts)
        return
    table = console.table("", "")
    table.show_header = False
    table.add_row("name", found.label)
    table.add_row("family", found.family)
    table.add_row("blocks", f"{facts['block']}, {', '.join(map(str, found.blocks))} a level")
    table.add_row("channels", f"{found.out_channels} in the last map, an eighth of the image")
    table.add_row("parameters", f"{facts['parameters']:,} with 1000 classes (classification)")
    table.add_row("", f"{facts['parameters_segmentation']:,} with 19 classes (segmentation)")
    table.add_row("arithmetic", f"{facts['flops'] / 1e9:.1f} GFLOPs for an image of 224x224")
    table.add_row("1-crop error", _errors_text(found.one_crop))
    table.add_row("10-crop error", _errors_text(found.ten_crop))
    if facts["start_only"]:
        table.add_row("errors of", START_ONLY)
    miou = "not published" if found.miou is None else f"{found.miou:.1f}% on Cityscapes val"
    table.add_row("mIoU", miou)
    console.out.print(table)
    for file in files:
        errors = "" if file["top5_error"] is None else f", top-5 error {file['top5_error']:.2f}%"
        console.out.print()
        console.echo(f"{file['name']}  ({file['keyword']}, by {file['source']}{errors})")
        for url in file["urls"]:
            console.echo(f"  {url}")
        checksum = file["digest"] or f"{file['algorithm'].upper()} begins {file['checksum']}"
        console.echo(f"  {checksum}, {file['licence']}")
        console.echo(f"  {'cached: ' + file['cached'] if file['cached'] else 'not cached'}")
    if not files:
        console.echo("weights: none were published")


@app.command(
    epilog="Examples:\n\n"
    "  [bold]drn models fetch drn_d_22[/]\n\n"
    "  [bold]drn models fetch drn_d_22 --retrained[/]             lower errors, by pytorchcv\n\n"
    "  [bold]DRN_MIRRORS=http://mirror/drn drn models fetch drn_d_22[/]\n\n"
    "Files go to $DRN_CACHE/weights, or ~/.cache/drn/weights. Files put there by hand count too."
)
def fetch(
    arch: Arch,
    retrained: Annotated[
        bool,
        typer.Option("--retrained", help="Weights trained again, with lower errors."),
    ] = False,
    json: Json = False,
) -> None:
    """Download a network's ImageNet weights to the cache folder, and check them."""
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
        typer.Argument(help="Weights of the original code, pytorchcv, torchvision or drn."),
    ],
    arch: Annotated[
        str | None,
        typer.Option(
            help="Needed for drn_b_26 only, which looks the same as drn_c_26.",
            autocompletion=complete_architecture,
        ),
    ] = None,
    task: Annotated[
        Literal["classification", "segmentation"] | None,
        typer.Option(help="Task of the network, for a file that does not name it."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="File to write; in the cache folder if left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    json: Json = False,
) -> None:
    """Recognise a weight file, prove that it works, and write it as drn's safetensors.

    Nothing in the file is run: one that holds more than tensors is refused.
    """
    from dataclasses import asdict

    from drn_cli.files import user_path
    from drn_cli.networks.importing import import_weights

    target = user_path(out) if out else None
    source = user_path(file)
    done = import_weights(source, target, arch=arch, task=task, force=force)
    if json:
        console.emit_json(asdict(done) | {"path": str(done.path)})
        return
    table = console.table("", "")
    table.show_header = False
    for key, value in asdict(done).items():
        table.add_row(key, f"{value:,}" if key == "parameters" else str(value))
    console.out.print(table, soft_wrap=True)


def _at_hand(arch: "Architecture") -> str:
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
        "keyword": next(word for word, kind in KEYWORDS.items() if kind == file.kind),
        "source": file.source,
        "licence": file.licence,
        "urls": list(file.urls),
        "algorithm": file.algorithm,
        "checksum": file.checksum,
        "digest": file.digest,
        "bytes": file.size,
        "top1_error": file.top1,
        "top5_error": file.top5,
        "cached": str(path) if path.is_file() else None,
    }


def _errors(errors: "PublishedErrors | None") -> dict[str, float] | None:
    return {"top1": errors.top1, "top5": errors.top5} if errors else None


def _errors_text(errors: "PublishedErrors | None") -> str:
    return f"top-1 {errors.top1:.2f}%, top-5 {errors.top5:.2f}%" if errors else "not published"
