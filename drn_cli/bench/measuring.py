"""One case after the other, measured; one that memory does not suffice for is told, not raised."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from drn_cli.bench import networks
from drn_cli.bench.cases import Case
from drn_cli.bench.cost import activation_bytes, picture_flops
from drn_cli.bench.reading import Reading, reading
from drn_cli.bench.subject import Subject
from drn_cli.bench.timing import Effort, Times, time_calls
from drn_cli.bench.training import training_step
from drn_cli.device import is_out_of_memory
from drn_cli.formatting import size
from drn_cli.inference.memory import available


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was found out about a case.

    Attributes:
        case: What was measured.
        flops: Operations a picture; None where nothing is computed.
        activation_bytes: As `activation_bytes` counts them, of a batch.
        times: Seconds a batch; None if it did not come to it.
        failure: Why it did not.
    """

    case: Case
    flops: int | None
    activation_bytes: int | None
    times: Times | None
    failure: str | None = None

    @property
    def pictures_per_second(self) -> float | None:
        """By the median."""
        return None if self.times is None else self.case.batch / self.times.p50

    def to_json(self) -> dict[str, Any]:
        """Give it for machines: operations, bytes, seconds."""
        told = asdict(self.case)
        height, width = told.pop("size")
        flops, rate = self.flops, self.pictures_per_second
        return {
            **told,
            "height": height,
            "width": width,
            "flops": flops,
            "activation_bytes": self.activation_bytes,
            "seconds": None if self.times is None else asdict(self.times),
            "pictures_per_second": rate,
            "flops_per_second": None if flops is None or rate is None else flops * rate,
            "failure": self.failure,
        }


def measure(
    subject: Subject, case: Case, device: torch.device, effort: Effort, data: Path | None = None
) -> Row:
    """Count what a case takes, and time it.

    Args:
        subject: The network.
        case: What to measure.
        device: Where to.
        effort: How often.
        data: Data folder for the input pipeline, instead of the run's or of drawn pictures.

    Raises:
        DrnError: The pictures to read cannot be used.
    """
    flops, needed = picture_flops(subject, case), activation_bytes(subject, case)
    failure = _too_much(case, needed, device)
    times = None
    if failure is None:
        try:
            times = _time(subject, case, device, effort, data)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = "out of memory"
    # Only here, after the handler, have the error's traceback and the call let go of the tensors.
    if failure is not None or device.type == "cuda":
        gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Row(case=case, flops=flops, activation_bytes=needed, times=times, failure=failure)


def _too_much(case: Case, needed: int | None, device: torch.device) -> str | None:
    """Say so where activations alone exceed the memory: on a CPU, the process would be killed.

    Whole predictions see a picture that is too large in tiles.
    """
    if needed is None or case.what in ("predict", "multi-scale"):
        return None
    free = available(device)
    if needed <= free:
        return None
    return f"out of memory: needs {size(needed)} for activations, and {size(free)} are free"


def _time(
    subject: Subject, case: Case, device: torch.device, effort: Effort, data: Path | None
) -> Times:
    with _ready(subject, case, device, data) as (call, batches):
        return _each(time_calls(call, effort, device), batches)


@contextmanager
def _ready(
    subject: Subject, case: Case, device: torch.device, data: Path | None
) -> Iterator[Reading]:
    if case.compiled:
        torch.compiler.reset()  # one network is compiled for a few sizes only before it gives up
    if case.what == "input":
        with reading(subject, case, device, data) as found:
            yield found
        return
    make = {"forward": networks.forward, "train": training_step}.get(case.what, networks.predict)
    yield Reading(make(subject, case, device), 1)


def _each(times: Times, batches: int) -> Times:
    """From the times of several batches to those of one."""
    return Times(
        rounds=times.rounds,
        **{name: getattr(times, name) / batches for name in ("least", "p50", "p90", "p99")},
    )
