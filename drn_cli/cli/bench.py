"""`drn bench`: what a network costs on this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from drn_cli.cli import console
from drn_cli.cli.sizes import parse_size
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    import torch

    from drn_cli.environment import MachineInfo

EPILOG = """[bold]Examples[/]

  drn bench drn_d_22

  drn bench drn_d_105 --size 2048x1024 --precision fp32,bf16 --compile

  drn bench runs/trial --what forward,predict,multi-scale,train,input --out today.json

  drn bench runs/trial --runtime pytorch,eager --batch 1,4 --compare yesterday.json

  drn bench drn_d_22.onnx --threads 4

  drn bench drn_d_22 --what input --data data/camvid --size 320 --workers 4

[bold]What is timed[/], by batch: its median (p50), and what 90% and 99% of the times stay below.

  forward       the network alone: normalised pictures in, scores at an eighth of the size out

  predict       from pixels to classes and all between, as drn predict does it

  multi-scale   the same at the six sizes of the paper, as with --ms

  train         a step of drn train: forward, loss, backward, optimiser; crops of noise

  input         reading and augmenting as drn train does: the run's data, --data, or drawn pictures

GFLOPs are those of a picture, 2 for each multiply-add, as torch.utils.flop_counter counts.
Activations are those of a batch: the most that exists at the same time; of train, what is
kept for the backward pass. Runtimes: pytorch is what drn predict runs, eager the network as
it is trained; an exported network has its own. Speed above 1x is faster than earlier.
"""

WHATS = ("forward", "predict", "multi-scale", "train", "input")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

Item = TypeVar("Item")


def _list_of(convert: Callable[[str], Item]) -> Callable[[str], tuple[Item, ...]]:
    """Make a parser of words with commas between; each of them counts once."""

    def parse(text: str) -> tuple[Item, ...]:
        return tuple(dict.fromkeys(convert(word) for word in text.split(",")))

    return parse


def _one_of(choices: Sequence[str]) -> Callable[[str], str]:
    def convert(word: str) -> str:
        if word not in choices:
            raise typer.BadParameter(f"{word!r}: some of {','.join(choices)}")
        return word

    return convert


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise typer.BadParameter(f"{word!r}: whole numbers from 1 with commas between, as 1,4")
    return int(word)


def _size(word: str) -> tuple[int, int]:
    try:
        width, height = parse_size(f"{word}x{word}" if word.isdecimal() else word)
    except typer.BadParameter as error:
        raise typer.BadParameter(
            f"{word!r}: should be WxH, width and height in pixels, or the side of a square, as "
            "1920x1080 or 224"
        ) from error
    return height, width


def bench(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ARCH|RUN|FILE",
            help="Architecture (random weights), run folder, checkpoint or exported network.",
        ),
    ],
    what: Annotated[
        Any,  # tuple[What, ...]
        typer.Option(
            parser=_list_of(_one_of(WHATS)),
            metavar="WHAT,...",
            help=f"What to time: some of {','.join(WHATS)}.",
        ),
    ] = "forward",
    batch: Annotated[
        Any,  # tuple[int, ...] | None
        typer.Option(
            parser=_list_of(_count),
            metavar="N,...",
            help="Pictures at once; by default 1, or to train with, the run's or 4.",
        ),
    ] = None,
    size: Annotated[
        Any,  # tuple[tuple[int, int], ...] | None
        typer.Option(
            parser=_list_of(_size),
            metavar="WxH,...",
            help="Width and height in pixels, or a square's side, as 1920x1080,224; by default "
            "1024x512 for segmenters, the crop or 224 "
            "for classifiers, and to train with, the run's crop or 512 and 224.",
        ),
    ] = None,
    precision: Annotated[
        Any,  # tuple[str, ...]
        typer.Option(
            parser=_list_of(_one_of(PRECISIONS)),
            metavar="P,...",
            help=f"What to compute in: some of {','.join(PRECISIONS)}.",
        ),
    ] = "auto",
    compile_: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Measure through torch.compile too.")
    ] = False,
    runtime: Annotated[
        Any,  # tuple[str, ...] | None
        typer.Option(
            parser=_list_of(str),
            metavar="R,...",
            help="pytorch (as drn predict), eager (as built), or both.",
        ),
    ] = None,
    task: Annotated[
        Literal["segmentation", "classification"] | None,
        typer.Option(help="Of an architecture; by default segmentation."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Of an architecture; by default 19 or 1000.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Data folder to read from (input).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Reading processes (input); by default the recipe's.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that compute on the CPU.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto is a GPU's.")
    ] = "auto",
    warmup: Annotated[int, typer.Option(min=1, help="Calls that do not count.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Calls that count, at most.")] = 50,
    seconds: Annotated[
        float,
        typer.Option(
            min=0, help="No further calls after so long, once three counted; also before."
        ),
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the same JSON to a file.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="EARLIER.json", help="Set what was measured earlier beside it."),
    ] = None,
) -> None:
    """Measure a network: parameters, arithmetic, memory, and how long everything takes."""
    import torch

    from drn_cli.bench import comparison
    from drn_cli.bench.cases import Size, Wanted, plan
    from drn_cli.bench.measuring import measure
    from drn_cli.bench.reading import check_pictures
    from drn_cli.bench.subject import resolve
    from drn_cli.bench.timing import Effort
    from drn_cli.environment import machine_info
    from drn_cli.files import write_json

    earlier = None if compare is None else comparison.read_earlier(compare)
    place = _device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    subject = resolve(source, task, classes)
    wanted = Wanted(
        whats=what,
        batches=batch,
        sizes=None if size is None else tuple(Size(*sides) for sides in size),
        precisions=precision,
        compiled=compile_,
        runtimes=runtime,
        workers=workers,
    )
    cases = plan(subject, wanted, place)
    check_pictures(subject, cases, data)
    effort = Effort(warmup=warmup, rounds=rounds, seconds=seconds)
    rows = []
    with console.bar(len(cases), unit="row") as bar:
        for case in cases:
            rows.append(measure(subject, case, place, effort, data))
            bar.update()
    machine = machine_info(place)
    document = comparison.to_json(subject, machine, rows)
    if earlier is not None:
        document = comparison.compare(document, earlier)
    if out is not None:
        write_json(out, document)
    if as_json:
        console.emit_json(document)
    else:
        _print(document, machine)


def _device(wanted: Literal["auto", "cpu", "cuda"]) -> "torch.device":
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise DrnError("--device cuda: there is no GPU that PyTorch can use", "--device cpu")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def _print(document: dict[str, Any], machine: "MachineInfo") -> None:
    """Print what was measured, as a table below the machine."""
    name = f"{document['source']}: " if document["source"] != document["arch"] else ""
    from drn_cli.networks.catalog import label

    network = label(document["arch"], document["width"])
    console.out.print(
        f"{name}{network}, {document['task']} of {document['classes']} classes, "
        f"{document['parameters']:,} parameters",
        soft_wrap=True,
    )
    console.out.print(str(machine), soft_wrap=True)
    compared = "differences" in document
    numbers = ["batch", "GFLOPs", "activations", "p50 ms", "p90 ms", "p99 ms", "pictures/s"]
    numbers += ["earlier ms", "speed"] if compared else []
    table = console.table("what", "how", "size", *numbers, right=tuple(numbers))
    for row in document["results"]:
        table.add_row(row["what"], _how(row), f"{row['width']}x{row['height']}", *_numbers(row))
    console.out.print(table)
    for row in document["results"]:
        if row["failure"] is not None:
            console.warn(f"{row['what']}, {_how(row)}, batch {row['batch']}: {row['failure']}")
    for difference in document.get("differences", ()):
        console.warn(f"measured earlier with something else: {difference}")
    if compared and all(row["earlier"] is None for row in document["results"]):
        console.warn("none of these was measured earlier")


def _how(row: dict[str, Any]) -> str:
    """Say what runs a network, in which numbers, or how many processes read."""
    parts = [row["runtime"], row["precision"], "compiled" if row["compiled"] else None]
    if row["workers"] is not None:
        parts.append(f"workers: {row['workers']}")
    return ", ".join(part for part in parts if part is not None)


def _numbers(row: dict[str, Any]) -> list[str]:
    from drn_cli.formatting import size

    flops, needed, times = row["flops"], row["activation_bytes"], row["seconds"]
    cells = [
        str(row["batch"]),
        "" if flops is None else f"{flops / 1e9:.1f}",
        "" if needed is None else size(needed),
    ]
    if times is None:
        cells += ["", "", "", row["failure"].partition(":")[0]]
    else:
        cells += [_milliseconds(times[name]) for name in ("p50", "p90", "p99")]
        cells.append(f"{row['pictures_per_second']:.2f}")
    if "speed" in row:
        cells.append("" if row["earlier"] is None else _milliseconds(row["earlier"]))
        cells.append("" if row["speed"] is None else f"{row['speed']:.2f}x")
    return cells


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.{1 if seconds >= 0.01 else 2}f}"
