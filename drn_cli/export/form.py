"""Configuration of an export: format, precision, inputs and outputs."""

from dataclasses import dataclass
from typing import Literal

from drn_cli.errors import DrnError
from drn_cli.networks.catalog import Architecture, Task

Format = Literal["onnx", "pt2", "openvino", "fyu", "safetensors"]
Precision = Literal["float32", "float16", "int8"]

ENDINGS: dict[Format, str] = {
    "onnx": ".onnx",
    "pt2": ".pt2",
    "openvino": ".xml",
    "fyu": ".pth",
    "safetensors": ".safetensors",
}
WEIGHTS_ONLY = ("fyu", "safetensors")  # formats without the computation graph
INT8 = ("onnx", "openvino")  # formats whose runtimes support int8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Format, precision, inputs and outputs of an exported network.

    Attributes:
        format: File format.
        argmax: Whether the output is the index map instead of scores (segmenters only).
        normalize: Whether the input is uint8 pixels, which the network normalizes itself.
        precision: Precision of the computation, or of the weights.
        size: Fixed height and width of the input; None allows any.
    """

    format: Format
    argmax: bool = False
    normalize: bool = False
    precision: Precision = "float32"
    size: tuple[int, int] | None = None

    def check(self, architecture: Architecture, task: Task) -> None:
        """Check that the format can contain the network, and that both support the options.

        Raises:
            DrnError: They do not.
        """
        graph = {"--argmax": self.argmax, "--normalize": self.normalize, "--size": self.size}
        if self.format in WEIGHTS_ONLY:
            for option, given in graph.items():
                if given:
                    raise DrnError(
                        f"{option}: not supported by {self.format}, which contains weights only",
                        "use onnx, pt2 or openvino",
                    )
        if self.precision == "int8" and self.format not in INT8:
            raise DrnError(f"--int8: not supported by {self.format}", f"use {' or '.join(INT8)}")
        if self.argmax and task == "classification":
            raise DrnError("--argmax: only for segmentation, and this is a classifier")
        if self.format == "fyu" and architecture.width != 1:
            raise DrnError(
                f"{architecture.label}: the original code has width 1.0 only",
                "use --format safetensors",
            )
        if self.format == "fyu" and architecture.family == "B":
            raise DrnError(
                f"{architecture.label}: the original code has no DRN-B", "use another format"
            )

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return ["classes"] if self.argmax else ["logits", "scores"]
