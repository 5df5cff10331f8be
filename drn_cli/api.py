"""Python API for prediction, for notebooks and scripts.

>>> import drn_cli
>>> drn_cli.Predictor("model.onnx")("street.jpg").overlay.save("seen.png")
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from drn_cli.data.classes import ClassSet
from drn_cli.data.images import Pixels, overlay, read_image, source_name
from drn_cli.device import autocast_type, resolve_precision
from drn_cli.errors import DrnError
from drn_cli.inference.classifier import ClassificationPredictor, topk
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.normalization import user_normalization
from drn_cli.inference.opening import open_network
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.inference.score_maps import ViewScores, argmax_classes, name_in_errors, probabilities
from drn_cli.inference.source import find_source

ImageInput = (
    str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[np.uint8]
)  # RGB pixels are uint8 (H, W, 3)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Result of a segmenter for an image.

    Attributes:
        image: The image, uint8 `(H, W, 3)`.
        index: Class of each pixel, uint8 `(H, W)`.
        class_set: Names and colors of the classes.
    """

    image: Pixels
    index: Pixels
    class_set: ClassSet
    _maps: Sequence[ViewScores] | None = field(repr=False)

    @property
    def colours(self) -> Image.Image:
        """The index map as a palette image with the colors of the classes."""
        image = Image.fromarray(self.index)
        image.putpalette(self.class_set.palette())
        return image

    @property
    def overlay(self) -> Image.Image:
        """The colors of the classes blended over the image."""
        return Image.fromarray(overlay(self.image, self.index, self.class_set))

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Probability of each class in each pixel, float32 `(classes, H, W)`.

        Raises:
            DrnError: The network was exported with --argmax.
        """
        if self._maps is None:
            raise DrnError(
                "probabilities: this network outputs class ids only", "export it without --argmax"
            )
        return probabilities(self._maps, *self.index.shape).cpu().numpy()

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of pixels of each class that occurs, in descending order."""
        ids, counts = np.unique(self.index, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        names = self.class_set.names
        return {names[ids[k]]: float(counts[k] / self.index.size) for k in order}


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Result of a classifier for an image.

    Attributes:
        names: Names of the classes.
        probabilities: Probability of each class, float64 `(classes,)`.
    """

    names: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the most likely classes with their probabilities; ties by class number."""
        order = topk(torch.from_numpy(self.probabilities)[None], count)[0].tolist()
        return [(self.names[k], float(self.probabilities[k])) for k in order]


class Predictor:
    """Segments or classifies images with a network from a file of any supported format.

    Args:
        source: A run directory, a checkpoint of any known format, an exported network (.onnx,
            .xml, .pt2), or the name of a network with published weights; None is the newest run
            that has a best network.
        device: `cuda`, `cuda:1`, `cpu`; by default a GPU if there is one.
        scales: Scales for multi-scale segmentation, for instance `drn_cli.MULTI_SCALE`, those of
            the paper; by default those of the run's recipe, or 1.
        flip: Whether segmentation averages with the horizontally flipped image.
        tile: Tile size for sliding-window segmentation, in pixels; by default as large as memory
            allows.
        ten_crop: Whether classification averages over ten crops.
        precision: Precision of the computation; auto is 16 bits on GPUs.
        mean: Mean of each channel for normalization, three numbers in 0..1, together with `std`.
            By default that of the file.
        std: Standard deviation of each channel, three numbers in 1e-6..1.
        stats: A data folder whose info.json has mean and std, instead of the two.

    Raises:
        DrnError: There is no such network, or it does not support the options.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        scales: Sequence[float] | None = None,
        flip: bool | None = None,
        tile: int | None = None,
        ten_crop: bool = False,
        precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stats: str | Path | None = None,
    ) -> None:
        given = user_normalization(None if stats is None else Path(stats), mean, std)
        found = find_source(None if source is None else Path(source))
        network = open_network(found.checkpoint)
        if ten_crop and network.task == "segmentation":
            raise DrnError("ten_crop: only for classification, and this is a segmenter")
        if (scales, flip, tile) != (None, None, None) and network.task == "classification":
            raise DrnError("scales, flip, tile: only for segmentation, and this is a classifier")
        if isinstance(network, ExportedNetwork) and precision not in ("auto", "fp32"):
            raise DrnError(
                f"precision={precision!r}: the precision of {network.path} is fixed by its export"
            )
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = autocast_type(resolve_precision(precision, target))
        options: dict[str, Any] = {"autocast": dtype, "given": given}
        self.arch, self.task = network.arch, network.task
        self._network = (
            load_classifier(
                network,
                target,
                view="10-crop" if ten_crop else "1-crop",
                **found.crop_settings(),
                **options,
            )
            if network.task == "classification"
            else load_predictor(
                network,
                target,
                view=found.view(None if scales is None else tuple(scales), flip, tile),
                concurrency=1,
                **options,
            )
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        network = self._network
        return (
            network.names
            if isinstance(network, ClassificationPredictor)
            else network.class_set.names
        )

    @overload
    def __call__(self, image: ImageInput) -> Prediction | Classification: ...
    @overload
    def __call__(
        self, image: list[ImageInput] | tuple[ImageInput, ...]
    ) -> list[Prediction | Classification]: ...
    def __call__(
        self, image: ImageInput | list[ImageInput] | tuple[ImageInput, ...]
    ) -> Prediction | Classification | list[Prediction | Classification]:
        """Segment or classify an image, or each image of a list.

        Args:
            image: A path, the content of a file, a file opened in binary mode, a Pillow image, or
                RGB pixels, uint8 `(H, W, 3)`; or a list of these. A file, its content and the
                Pillow image that is opened from it give the same result.

        Returns:
            One result, or a list for a list.

        Raises:
            DrnError: An image cannot be read, an array has another shape or type, scores are not
                finite, or out of memory.
            TypeError: Another type of image.
        """
        if isinstance(image, list | tuple):
            count = len(image)
            return [self._predict(one, f"image {n} of {count}") for n, one in enumerate(image, 1)]
        return self._predict(image)

    def _predict(self, image: ImageInput, label: str | None = None) -> Prediction | Classification:
        """Predict an image; `label` is its name in messages if it is not a file."""
        name = source_name(image)
        try:
            pixels = _pixels(image)
        except DrnError as error:
            if name is not None or label is None:
                raise
            problem = error.message.removeprefix("image: ")
            raise DrnError(f"{label}: {problem}", error.hint) from error
        name = name or label or "the image"
        network = self._network
        if isinstance(network, ClassificationPredictor):
            crops = torch.from_numpy(np.array(network.crops(pixels)))[None].to(network.device)
            with name_in_errors(name):
                scores = network.log_probabilities(crops)[0].cpu()
            return Classification(names=network.names, probabilities=scores.exp().numpy())
        with name_in_errors(name):
            maps = None if network.outputs_classes else network.view_scores(pixels)
            index = network(pixels) if maps is None else argmax_classes(maps, *pixels.shape[:2])
        return Prediction(
            image=pixels, index=index.cpu().numpy(), class_set=network.class_set, _maps=maps
        )


def _pixels(image: ImageInput) -> Pixels:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DrnError(
                f"array of {image.dtype} {image.shape}: RGB pixels must be uint8 (H, W, 3)",
                "or use a path, the content of a file, or a Pillow image",
            )
        return image
    if isinstance(image, str | os.PathLike):
        image = Path(image)
    binary = hasattr(image, "read") and not isinstance(image, io.TextIOBase)
    if not binary and not isinstance(image, Path | bytes | Image.Image):
        raise TypeError(
            f"an image is a path, bytes, a file opened in binary mode, a PIL image, or a uint8 "
            f"array (H, W, 3), or a list of these, not {type(image).__name__}"
        )
    return read_image(image, frames="first")
