"""Parity check: compare the outputs of an exported network with those of the original."""

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
from drn_cli.networks.models import upsample

DIFFERENCE = 1e-4  # limit in float32, relative to the largest logit, at least 1
AGREEMENT: Mapping[Precision, float] = {"float32": 0.999, "float16": 0.999, "int8": 0.98}


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """Difference between the outputs of two networks for the same inputs.

    Attributes:
        inputs: Kind of the inputs.
        real: Whether the inputs are images rather than random pixels.
        shape: Shape of the inputs, `(N, 3, H, W)`.
        difference: Largest absolute difference of logits or scores; None without them.
        largest: Largest absolute logit.
        agreement: Fraction of pixels (or of images, for a classifier) with the same class.
    """

    inputs: str
    real: bool
    shape: tuple[int, ...]
    difference: float | None
    largest: float
    agreement: float

    def passes(self, precision: Precision) -> bool:
        """Return whether the difference is within the limits of a precision.

        int8 is calibrated on images, so random pixels are ignored. NaN and infinity never pass.
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
    """Result of the parity check.

    Attributes:
        runtime: Runtime of the exported network.
        original: Runtime and precision of the original network.
        precision: Precision of the exported network.
        comparisons: Difference for each input.
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
        """Description of the worst difference."""
        one = min(self.comparisons, key=lambda one: (one.passes(self.precision), one.agreement))
        count, _, height, width = one.shape
        logits = "" if one.difference is None else f"logits differ by {one.difference:.2g}, and "
        return (
            f"{logits}{100 * one.agreement:.3f} % of the classes agree on {one.inputs} "
            f"({count} of {width}x{height})"
        )

    def to_json(self) -> dict[str, Any]:
        limit = DIFFERENCE if self.precision == "float32" else None
        allowed = {"difference": limit, "agreement": AGREEMENT[self.precision]}
        return asdict(self) | {"allowed": allowed}


Run = Callable[[Tensor], dict[str, Tensor]]  # from uint8 `(N, H, W, 3)` to outputs by name


def run_network(found: OpenedNetwork, statistics: ChannelStats) -> Run:
    """Return a function from pixels to classes and, unless they are exported alone, scores."""
    if not isinstance(found, ExportedNetwork):

        def run_model(pixels: Tensor) -> dict[str, Tensor]:
            model, x = found.model, normalize(pixels, statistics)
            scores = model.scores(x)
            if model.task == "classification":
                return _outputs(model(x), scores)
            return _outputs(upsample(scores, x.shape[-2], x.shape[-1]), scores)

        return run_model
    session = found.session(torch.device("cpu"), 1)
    normalization = UINT8_STATISTICS if found.takes_uint8 else statistics

    def run_session(pixels: Tensor) -> dict[str, Tensor]:
        x = normalize(pixels, normalization)
        if found.outputs_classes:
            return {"classes": session(x, "classes")}
        return _outputs(session(x, "logits"), session(x, "scores"))

    return run_session


def _outputs(logits: Tensor, scores: Tensor) -> dict[str, Tensor]:
    return {"logits": logits, "scores": scores, "classes": logits.max(1).indices}


def _checked(run: Run, inputs: ParityInput, classes: int, network: str) -> dict[str, Tensor]:
    """Return the outputs of a network, all values of which must be finite."""
    outputs = run(torch.from_numpy(inputs.pixels))
    try:
        check_classes(outputs["classes"], classes)
        for output in outputs.values():
            if output.is_floating_point():
                check_finite([output])
    except NonFiniteScoresError as error:
        raise DrnError(
            f"{inputs.names[error.number]}: the scores of {network} are not finite",
            "check the checkpoint, or export it without --half",
        ) from None
    return outputs


@torch.inference_mode()
def compare(
    original: TrainedNetwork,
    exported: OpenedNetwork,
    statistics: ChannelStats,
    precision: Precision,
    inputs: Sequence[ParityInput],
) -> Parity:
    """Compare the outputs of two networks.

    Args:
        original: The network that was exported.
        exported: The exported network.
        statistics: Mean and standard deviation for normalization.
        precision: Precision of the exported network.
        inputs: Inputs for both.

    Raises:
        DrnError: Scores of either are NaN or infinite; the message names the image.
    """
    run_original = run_network(original, statistics)
    run_exported = run_network(exported, statistics)
    comparisons, classes = [], original.classes
    for one in inputs:
        expected = _checked(run_original, one, classes, f"the network, {original.path},")
        actual = _checked(run_exported, one, classes, f"the export, in {exported.runtime},")
        differences = [
            (actual[name] - expected[name]).abs().max()
            for name in ("logits", "scores")
            if name in actual
        ]
        same = actual["classes"].long() == expected["classes"]
        count, height, width, _ = one.pixels.shape
        # The maximum of tensors keeps a NaN.
        largest_difference = float(torch.stack(differences).max()) if differences else None
        comparisons.append(
            OutputDifference(
                inputs=one.kind,
                real=one.real,
                shape=(count, 3, height, width),
                difference=largest_difference,
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
