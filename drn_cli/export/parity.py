"""Whether an exported network answers as the one that it was made of."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from drn_cli.data.batches import normalize
from drn_cli.data.folders import ChannelStats
from drn_cli.errors import DrnError
from drn_cli.export.form import Precision
from drn_cli.export.probes import ParityInput
from drn_cli.inference.opening import OpenedNetwork, TrainedNetwork
from drn_cli.inference.runtimes import UINT8_STATISTICS, ExportedNetwork
from drn_cli.inference.score_maps import NonFiniteScoresError, check_classes, check_finite
from drn_cli.networks.models import DRN, upsample

DIFFERENCE = 1e-4  # in float32, of the largest score, or of 1 where all are smaller
AGREEMENT: Mapping[Precision, float] = {"float32": 0.999, "float16": 0.999, "int8": 0.98}


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How alike two networks answer to one probe.

    Attributes:
        inputs: What was seen.
        real: Whether it was images of something.
        shape: `(N, 3, H, W)`.
        difference: The largest one between their logits; None where there are no logits.
        largest: The largest logit, without its sign.
        agreement: Share of the pixels (of a classifier: of the images) with the same class.
    """

    inputs: str
    real: bool
    shape: tuple[int, ...]
    difference: float | None
    largest: float
    agreement: float

    def passes(self, precision: Precision) -> bool:
        """Tell whether it is within what a precision allows.

        Whole numbers are calibrated on images, so random pixels say nothing of them. NaN and
        infinity never pass.
        """
        if self.difference is not None and not math.isfinite(self.difference):
            return False
        if precision == "int8" and not self.real:
            return True
        if precision == "float32" and self.difference is not None:
            return self.difference <= DIFFERENCE * max(1.0, self.largest)
        return self.agreement >= AGREEMENT[precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What came of all comparisons.

    Attributes:
        runtime: What ran the exported network.
        original: What ran the other one.
        precision: What the exported one computes in.
        comparisons: One for each probe.
    """

    runtime: str
    original: str
    precision: Precision
    comparisons: list[OutputDifference]

    @property
    def passed(self) -> bool:
        return all(one.passes(self.precision) for one in self.comparisons)

    @property
    def worst(self) -> str:
        """Say in words how the exported network fails, or nearly does."""
        one = min(self.comparisons, key=lambda one: (one.passes(self.precision), one.agreement))
        count, _, height, width = one.shape
        apart = "" if one.difference is None else f"logits differ by {one.difference:.2g}, and "
        return (
            f"{apart}{100 * one.agreement:.3f} % of the classes are the same on {one.inputs} "
            f"({count} of {width}x{height})"
        )

    def to_json(self) -> dict[str, Any]:
        limit = DIFFERENCE if self.precision == "float32" else None
        allowed = {"difference": limit, "agreement": AGREEMENT[self.precision]}
        return asdict(self) | {"allowed": allowed}


Answer = Callable[[Tensor], dict[str, Tensor]]  # from uint8 `(N, H, W, 3)` to outputs by name


def run_network(found: OpenedNetwork, statistics: ChannelStats) -> Answer:
    """Give what a network answers to pixels: classes, and logits and scores where it has them."""
    if not isinstance(found, ExportedNetwork):
        return lambda pixels: _answered(found.model, normalize(pixels, statistics))
    run = found.session(torch.device("cpu"), 1)
    inside = UINT8_STATISTICS if found.takes_uint8 else statistics

    def answer(pixels: Tensor) -> dict[str, Tensor]:
        x = normalize(pixels, inside)
        if found.outputs_classes:
            return {"classes": run(x, "classes")}
        return _outputs(run(x, "logits"), run(x, "scores"))

    return answer


def _answered(model: DRN, x: Tensor) -> dict[str, Tensor]:
    scores = model.scores(x)
    if model.task == "classification":
        return _outputs(model(x), scores)
    return _outputs(upsample(scores, x.shape[-2], x.shape[-1]), scores)  # as it does itself


def _outputs(logits: Tensor, scores: Tensor) -> dict[str, Tensor]:
    return {"logits": logits, "scores": scores, "classes": logits.max(1).indices}


def _finite(answer: Answer, probe: ParityInput, classes: int, network: str) -> dict[str, Tensor]:
    """Ask a network for all of its outputs, none of which may have a value that is not finite."""
    outputs = answer(torch.from_numpy(probe.pixels))
    try:
        check_classes(outputs["classes"], classes)
        for output in outputs.values():
            if output.is_floating_point():
                check_finite([output])
    except NonFiniteScoresError as error:
        raise DrnError(
            f"{probe.names[error.number]}: not finite: the scores of {network}",
            "there are classes for finite scores alone: check the checkpoint, or export it "
            "without --half",
        ) from None
    return outputs


@torch.inference_mode()
def compare(
    original: TrainedNetwork,
    exported: OpenedNetwork,
    statistics: ChannelStats,
    precision: Precision,
    probes: Sequence[ParityInput],
) -> Parity:
    """Show two networks the same inputs.

    Args:
        original: What is right.
        exported: What was made of it.
        statistics: What pixels are normalised with.
        precision: What the exported one computes in.
        probes: The inputs.

    Raises:
        DrnError: Scores of either are NaN or infinite; it names the image.
    """
    right, other = run_network(original, statistics), run_network(exported, statistics)
    comparisons, classes = [], original.classes
    for probe in probes:
        expected = _finite(right, probe, classes, f"the network, {original.path}")
        given = _finite(other, probe, classes, f"the exported network, in {exported.runtime}")
        apart = [
            (given[name] - expected[name]).abs().max()
            for name in ("logits", "scores")
            if name in given
        ]
        same = given["classes"].long() == expected["classes"]
        count, height, width, _ = probe.pixels.shape
        comparisons.append(
            OutputDifference(
                inputs=probe.kind,
                real=probe.real,
                shape=(count, 3, height, width),
                difference=float(torch.stack(apart).max()) if apart else None,  # keeps a NaN
                largest=float(expected["logits"].abs().max()),
                agreement=float(same.double().mean()),
            )
        )
    return Parity(
        runtime=exported.runtime,
        original=f"{original.runtime}, float32",
        precision=precision,
        comparisons=comparisons,
    )
