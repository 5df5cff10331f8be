"""Which measurements are to be made: a row of the table each."""

from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, get_args

import torch

from drn_cli.bench.subject import Subject
from drn_cli.device import Precision, resolve_precision
from drn_cli.errors import DrnError
from drn_cli.inference.runtimes import ExportedNetwork

# In the order in which they are measured: training tunes the whole process for itself.
What = Literal["forward", "predict", "multi-scale", "train", "input"]
WHATS: tuple[What, ...] = get_args(What)

Workers = int | Literal["auto"]
Wish = Precision | Literal["auto"]

LEARNING = ("train", "input")  # on batches of crops, not on single pictures


class Size(NamedTuple):
    """Of a picture or crop, in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


# What a network sees where neither an option nor a run says so.
PICTURE = {"segmentation": Size(512, 1024), "classification": Size(224, 224)}
CROP = {"segmentation": Size(512, 512), "classification": Size(224, 224)}
CROPS = 4  # a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement, and all that its time depends on besides the network and the machine.

    Attributes:
        what: What is timed.
        runtime: What runs the network; None where nothing or training does.
        precision: What it computes in; None where nothing does, or an exported file says so.
        compiled: Whether through torch.compile.
        batch: Pictures at once.
        size: Of each.
        workers: Reading processes, as a recipe has them; None where nothing is read.
    """

    what: What
    runtime: str | None
    precision: Precision | None
    compiled: bool
    batch: int
    size: Size
    workers: Workers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for; None is what is usual for each measurement.

    Attributes:
        whats: What to time.
        batches, sizes: Pictures at once, and how large they are.
        precisions: What to compute in.
        compiled: Whether to measure through torch.compile too.
        runtimes: What is to run the network.
        workers: Reading processes.
    """

    whats: tuple[What, ...] = ("forward",)
    batches: tuple[int, ...] | None = None
    sizes: tuple[Size, ...] | None = None
    precisions: tuple[Wish, ...] = ("auto",)
    compiled: bool = False
    runtimes: tuple[str, ...] | None = None
    workers: int | None = None


def plan(subject: Subject, wanted: Wanted, device: torch.device) -> list[Case]:
    """List the measurements, each once.

    Raises:
        DrnError: Something cannot be measured of this network.
    """
    _check(subject, wanted)
    ways = [False, True] if wanted.compiled else [False]
    cases: list[Case] = []
    for what in (what for what in WHATS if what in wanted.whats):
        batches, sizes = wanted.batches, wanted.sizes
        for size, batch in product(
            sizes or (_usual_size(subject, what),), batches or (_usual_batch(subject, what),)
        ):
            for runtime, precision, compiled in product(
                wanted.runtimes or subject.runtimes[:1], wanted.precisions, ways
            ):
                cases.append(
                    Case(
                        what=what,
                        runtime=None if what in LEARNING else runtime,
                        precision=_precision(subject, what, precision, device),
                        compiled=compiled and what != "input",
                        batch=batch,
                        size=size,
                        workers=_workers(subject, wanted) if what == "input" else None,
                    )
                )
    return list(dict.fromkeys(cases))


def _precision(
    subject: Subject, what: What, wanted: Wish, device: torch.device
) -> Precision | None:
    """Say what is computed in; `auto` is what `drn predict` does, or the run when it trains."""
    if what == "input" or (what != "train" and subject.exported):
        return None
    if what == "train" and wanted == "auto" and subject.recipe is not None:
        wanted = subject.recipe.train.precision
    return resolve_precision(wanted, device)


def _check(subject: Subject, wanted: Wanted) -> None:
    for runtime in wanted.runtimes or ():
        if runtime not in subject.runtimes:
            raise DrnError(
                f"--runtime {runtime}: cannot run {subject.name}",
                f"some of: {','.join(subject.runtimes)}",
            )
    if subject.task == "classification" and "multi-scale" in wanted.whats:
        raise DrnError("--what multi-scale: is for segmenters, and this is a classifier")
    if subject.exported and not set(wanted.precisions) <= {"auto", "fp32"}:
        raise DrnError(f"--precision: {subject.name} computes in what it was exported in")
    if subject.exported and wanted.compiled:
        raise DrnError(f"--compile: {subject.name} has a runtime of its own")
    if wanted.compiled and "train" in wanted.whats and _computes_again(subject):
        raise DrnError(
            "--compile: does not go with train.checkpoint_activations of the run's recipe",
            "leave train out of --what, or --compile",
        )
    square = {"input"} | ({"predict"} if subject.task == "classification" else set())
    if affected := sorted(square & set(wanted.whats)):
        for size in wanted.sizes or ():
            if size.height != size.width:
                raise DrnError(
                    f"--size {size}: crops are square (--what {','.join(affected)})",
                    f"--size {min(size)}",
                )


def _computes_again(subject: Subject) -> bool:
    return subject.recipe is not None and subject.recipe.train.checkpoint_activations


def _usual_size(subject: Subject, what: What) -> Size:
    if isinstance(subject.network, ExportedNetwork) and subject.network.size is not None:
        return Size(*subject.network.size)
    crops = what in LEARNING or subject.task == "classification"
    if crops and subject.recipe is not None:
        return Size(subject.recipe.augment.crop, subject.recipe.augment.crop)
    return (CROP if crops else PICTURE)[subject.task]


def _usual_batch(subject: Subject, what: What) -> int:
    if what not in LEARNING:
        return 1
    if subject.recipe is None:
        return CROPS
    train = subject.recipe.train
    return train.batch_size // train.accumulate


def _workers(subject: Subject, wanted: Wanted) -> Workers:
    if wanted.workers is not None:
        return wanted.workers
    return "auto" if subject.recipe is None else subject.recipe.data.workers
