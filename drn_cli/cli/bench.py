"""`drn bench`: what a network costs on this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.sizes import parse_size
from drn_cli.errors import DrnError

EPILOG = """[bold]Examples[/]

  drn bench drn_d_22

  drn bench drn_d_105 --size 2048x1024 --precision fp32,bf16 --compile

  drn bench runs/trial --what forward,train,input --out today.json

  drn bench runs/trial --runtime pytorch,eager --compare yesterday.json

  drn bench drn_d_22.onnx --threads 4

  drn bench drn_d_22 --what input --data data/camvid --workers 4

[bold]What is timed[/]: one batch; median (p50), 90th and 99th percentile.

  forward       the network alone: from normalized images to scores or logits

  predict       from pixels to classes, as in drn predict

  multi-scale   the same at the six sizes of the paper, as with --ms

  train         a training step on noise: forward, loss, backward, optimizer

  input         data loading and augmentation of drn train, on the run's data,
                --data or synthetic images

GFLOPs are per image, 2 per multiply-add, as torch.utils.flop_counter counts.
Activations are per batch: the peak, or for train, what is saved for backward.
Runtimes: pytorch is that of drn predict, eager the network as trained; an
exported file has its own. A speed above 1x is faster than the earlier result.
"""

WHATS = ("forward", "predict", "multi-scale", "train", "input")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BATCH_HELP = "Batch size. Default: 1 for inference; for training, the run's batch size or 4."
SIZE_HELP = (
    "Image size in pixels, such as 1920x1080, or 224 for a square. Default: 1024x512 for "
    "segmenters; for classifiers and training, the run's crop, or 224 and 512."
)
RUNTIME_HELP = "pytorch (as in drn predict), eager (as trained), or both."


def _list_option(
    metavar: str, text: str, convert: Callable[[str], object] = str, choices: Sequence[str] = ()
) -> Any:
    """Return an option that takes a comma-separated list; repeated items count once."""

    def parse(value: str) -> tuple[object, ...]:
        words = value.split(",")
        if wrong := [word for word in words if choices and word not in choices]:
            raise typer.BadParameter(f"{wrong[0]!r}: choose from {','.join(choices)}")
        return tuple(dict.fromkeys(map(convert, words)))

    text = f"{text}: one or more of {', '.join(choices)}." if choices else text
    return typer.Option(parser=parse, metavar=metavar, help=text)


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise typer.BadParameter(f"{word!r}: should be positive integers, such as 1,4")
    return int(word)


def _size(word: str) -> tuple[int, int]:
    try:
        width, height = parse_size(f"{word}x{word}" if word.isdecimal() else word)
    except typer.BadParameter as error:
        raise typer.BadParameter(
            f"{word!r}: should be WxH in pixels, or the side of a square, such as 1920x1080 or 224"
        ) from error
    return height, width


def bench(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ARCH|RUN|FILE",
            help="Architecture (random weights), run directory, checkpoint or exported file.",
        ),
    ],
    what: Annotated[Any, _list_option("WHAT,...", "What to time", choices=WHATS)] = "forward",
    batch: Annotated[Any, _list_option("N,...", BATCH_HELP, _count)] = None,
    size: Annotated[Any, _list_option("WxH,...", SIZE_HELP, _size)] = None,
    precision: Annotated[Any, _list_option("P,...", "Precision", choices=PRECISIONS)] = "auto",
    compile_: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also measure with torch.compile.")
    ] = False,
    runtime: Annotated[Any, _list_option("R,...", RUNTIME_HELP)] = None,
    task: Annotated[
        Literal["classification", "segmentation"] | None,
        typer.Option(help="Task of an architecture. Default: segmentation."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of an architecture. Default: 19 or 1000.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Data folder for input.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Data loader workers for input. Default: the recipe's."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of CPU threads.")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Where to compute. auto: a GPU if there is one."),
    ] = "auto",
    warmup: Annotated[int, typer.Option(min=1, help="Number of warm-up calls.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Maximum number of timed calls.")] = 50,
    seconds: Annotated[
        float,
        typer.Option(
            min=0, help="Time budget in seconds for warm-up and for measurement (at least 3 calls)."
        ),
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the JSON to a file.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Compare with an earlier result.")
    ] = None,
) -> None:
    """Measure parameters, FLOPs, activation memory and latency of a network."""
    import torch

    from drn_cli.bench import runner
    from drn_cli.bench.cases import open_target, plan_cases
    from drn_cli.environment import machine_info
    from drn_cli.files import write_json

    baseline = None if compare is None else runner.read_baseline(compare)
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise DrnError("--device cuda: PyTorch finds no GPU", "--device cpu")
    place = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    target = open_target(source, task, classes)
    cases = plan_cases(
        target,
        place,
        whats=what,
        batches=batch or (),
        sizes=size or (),
        precisions=precision,
        compiled=compile_,
        runtimes=runtime or (),
        workers=workers,
    )
    runner.check_data(target, cases, data)
    budget = runner.TimingBudget(warmup=warmup, rounds=rounds, seconds=seconds)
    results = []
    with console.bar(len(cases), unit="row") as bar:
        for case in cases:
            results.append(runner.measure(target, case, place, budget, data))
            bar.update()
    machine = machine_info(place)
    document = runner.to_json(target, machine, results)
    if baseline is not None:
        document = runner.add_baseline(document, baseline)
    if out is not None:
        write_json(out, document)
    if as_json:
        console.emit_json(document)
    else:
        _print(document, str(machine))


def _print(document: dict[str, Any], machine: str) -> None:
    """Print the machine, the costs and the times, each table at most 80 columns wide."""
    from drn_cli.formatting import size
    from drn_cli.networks.catalog import label

    network = label(document["arch"], document["width"])
    name = f"{document['source']}: " if document["source"] != document["arch"] else ""
    console.out.print(
        f"{name}{network}, {document['task']} of {document['classes']} classes, "
        f"{document['parameters']:,} parameters",
        soft_wrap=True,
    )
    console.out.print(machine, soft_wrap=True)
    compared = "differences" in document
    numbers = ["p50 ms", *(("earlier", "speed") if compared else ("p90 ms", "p99 ms")), "images/s"]
    columns, sums = ("what", "how", "size", "batch"), ("GFLOPs", "activations")
    costs = console.table(*columns, *sums, right=("batch", *sums))
    times = console.table(*columns, *numbers, right=("batch", *numbers))
    for row in document["results"]:
        parts = [row["runtime"], row["precision"], "compiled" if row["compiled"] else None]
        if row["workers"] is not None:
            parts.append(f"workers: {row['workers']}")
        how = " ".join(part for part in parts if part is not None)
        case = (row["what"], how, f"{row['width']}x{row['height']}", str(row["batch"]))
        if row["flops"] is not None:
            costs.add_row(*case, f"{row['flops'] / 1e9:.1f}", size(row["activation_bytes"]))
        if row["seconds"] is None:
            times.add_row(*case, "", "", "", "failed")
            console.warn(f"{row['what']}, {how}, batch {row['batch']}: {row['error']}")
            continue
        median, speed = _milliseconds(row["seconds"]["p50"]), row.get("speed")
        if compared:
            earlier = row["earlier"]
            others = ["" if earlier is None else _milliseconds(earlier)]
            others.append("" if speed is None else f"{speed:.2f}x")
        else:
            others = [_milliseconds(row["seconds"][key]) for key in ("p90", "p99")]
        times.add_row(*case, median, *others, f"{row['images_per_second']:.2f}")
    for table in (costs, times) if costs.row_count else (times,):
        console.out.print()
        console.out.print(table)
    for difference in document.get("differences", ()):
        console.warn(f"differs from the earlier result: {difference}")
    if compared and all(row["earlier"] is None for row in document["results"]):
        console.warn("the earlier result has none of these cases")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.{1 if seconds >= 0.01 else 2}f}"
