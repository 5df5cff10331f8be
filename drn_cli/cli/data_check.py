"""`drn data check`: read a data folder and report what is wrong with it."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from drn_cli.data.audit.findings import CheckFinding
    from drn_cli.data.audit.reading import Size
    from drn_cli.data.audit.report import CheckReport

EPILOG = """[bold]Examples[/]

  drn data check data/camvid

  drn data check /data/cityscapes --classes 19 --split train --split val

  drn data check /data/cityscapes --lists lists/ --json > check.json

  drn data check /data/imagenet      class folders too

Reads every file once, on all cores; changes nothing. The exit code is 1 if
there are errors: missing or broken files, labels that do not match their
images or the classes, training images in another split. It is 0 with warnings
only. The last columns are class weights: median frequency balancing and ENet;
--json has them in full precision.
"""


def check(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Data folder, of lists or classes.")],
    lists: Annotated[
        Path | None, typer.Option(help="Folder of the lists and info.json, if not DIR.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=1, max=255, help="Number of classes. Default: those in info.json."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split to check; may be repeated. Default: all that exist."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of findings to show per kind.")] = 5,
    max_pixels: MaxPixels = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Read all images and labels of a data folder and report errors."""
    for name in split or ():
        if name not in ("train", "val", "test"):
            message = f"{name!r} is not one of 'train', 'val', 'test'."
            raise typer.BadParameter(message, param_hint="'--split'")
    from drn_cli.data.audit.folder import check_folder

    with progress_bar("file") as progress:
        report = check_folder(
            root, lists=lists, classes=classes, splits=split or (), progress=progress
        )
    if as_json:
        console.emit_json(report.to_json())
    else:
        _print(report, limit)
    if report.errors:
        raise typer.Exit(1)


def _print(report: "CheckReport", limit: int) -> None:
    console.out.print(_splits(report))
    if report.class_weights:
        console.out.print()
        console.out.print(_classes(report))
    if report.class_count is None and report.highest_label is not None:
        console.out.print()
        console.out.print(
            f"the highest label is {report.highest_label}; no number of classes is given, so label "
            f"values were not checked (use --classes {report.highest_label + 1} or more)",
            soft_wrap=True,
        )
    if report.statistics:
        mean, std = (
            " ".join(f"{number:.4f}" for number in numbers)
            for numbers in (report.statistics.mean, report.statistics.std)
        )
        console.out.print()
        console.out.print(f"training images: mean {mean}, std {std}", soft_wrap=True)
    groups = groupby(report.findings, key=lambda finding: (finding.severity, finding.kind))
    for (severity, kind), findings in groups:
        _print_group(severity, kind, list(findings), limit)
    console.out.print()
    counts = {"error": report.errors, "warning": report.warnings}
    words = [f"{n:,} {word}{'s' if n > 1 else ''}" for word, n in counts.items() if n]
    console.out.print(", ".join(words) or "no problems", soft_wrap=True)


def _splits(report: "CheckReport") -> "Table":
    by_class = any(split.per_class for split in report.splits.values())
    counts = ("min per class", "median", "max") if by_class else ("labels",)
    columns = ("images", *counts, "smallest", "largest")
    table = console.table("split", *columns, right=columns)
    for name, split in report.splits.items():
        numbers = [f"{split.images:,}"]
        if split.per_class:
            each = split.per_class
            numbers += [f"{each.min:,}", f"{each.median:,g}", f"{each.max:,}"]
        else:
            numbers.append(f"{split.labels:,}" if split.labels else "-")
        table.add_row(name, *numbers, _size(split.smallest), _size(split.largest))
    return table


def _size(size: "Size | None") -> str:
    return "-" if size is None else f"{size[0]}x{size[1]}"


def _classes(report: "CheckReport") -> "Table":
    from drn_cli.data.audit.report import ClassPixels

    columns = ("id", "pixels", "share %", "images", "median weight", "ENet weight")
    table = console.table("class", *columns, right=columns)
    weights = report.class_weights
    for number, entry in enumerate(report.classes):
        assert isinstance(entry, ClassPixels)
        table.add_row(
            entry.name,
            str(number),
            f"{entry.pixels:,}",
            f"{100 * entry.share:.3f}",
            f"{entry.images:,}",
            f"{weights['median_frequency'][number]:.4f}",
            f"{weights['enet'][number]:.4f}",
        )
    return table


def _print_group(severity: str, kind: str, findings: "list[CheckFinding]", limit: int) -> None:
    """Print the first few findings of a kind, and each hint once."""
    from drn_cli.data.audit.findings import KINDS

    color = "red" if severity == "error" else "yellow"
    console.out.print()
    console.out.print(
        console.styled((severity, f"bold {color}"), f": {KINDS[kind]} ({len(findings):,})"),
        soft_wrap=True,
    )
    shown = findings[:limit]
    for finding in shown:
        console.out.print(f"  {finding}", soft_wrap=True)
    for hint in dict.fromkeys(finding.hint for finding in shown if finding.hint):
        console.out.print(console.styled("  ", ("->", "dim"), f" {hint}"), soft_wrap=True)
    if len(findings) > limit > 0:
        console.out.print(f"  and {len(findings) - limit:,} more", soft_wrap=True)
