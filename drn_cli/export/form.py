"""What is asked of an exported network."""

from dataclasses import dataclass
from typing import Literal

from drn_cli.errors import DrnError
from drn_cli.networks.catalog import Task

Format = Literal["onnx", "pt2", "openvino", "fyu", "safetensors"]
Precision = Literal["float32", "float16", "int8"]

ENDINGS: dict[Format, str] = {
    "onnx": ".onnx",
    "pt2": ".pt2",
    "openvino": ".xml",
    "fyu": ".pth",
    "safetensors": ".safetensors",
}
WEIGHTS_ONLY = ("fyu", "safetensors")  # formats of tensors, without the network's computation
INT8 = ("onnx", "openvino")  # formats whose runtimes compute in whole numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What an exported network takes and gives, and computes in.

    Attributes:
        format: What it is for.
        argmax: Whether it gives the index map instead of scores (segmenters).
        normalize: Whether it takes pixels, with mean and standard deviation inside.
        precision: What it computes in, or keeps its weights in.
        size: The one height and width that it takes; None is any.
    """

    format: Format
    argmax: bool = False
    normalize: bool = False
    precision: Precision = "float32"
    size: tuple[int, int] | None = None

    def check(self, task: Task) -> None:
        """See that a format can have what is asked of it.

        Raises:
            DrnError: It cannot.
        """
        graph = {"--argmax": self.argmax, "--normalize": self.normalize, "--size": self.size}
        if self.format in WEIGHTS_ONLY:
            for option, given in graph.items():
                if given:
                    raise DrnError(
                        f"{option}: a file of weights has no input and output",
                        f"{option} is for onnx, pt2 and openvino",
                    )
        if self.precision == "int8" and self.format not in INT8:
            raise DrnError(f"--int8: is for {' and '.join(INT8)}, not for {self.format}")
        if self.argmax and task == "classification":
            raise DrnError("--argmax: is for segmenters, and this is a classifier")

    @property
    def outputs(self) -> list[str]:
        """Names of what the network gives."""
        return ["classes"] if self.argmax else ["logits", "scores"]
