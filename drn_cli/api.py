"""One line in a notebook: a network of any kind, and what it says of an image.

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
from drn_cli.inference.opening import OpenedNetwork, open_network
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.inference.score_maps import ViewScores, argmax_classes, name_in_errors, probabilities
from drn_cli.inference.source import find_source

ImageInput = (
    str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[np.uint8]
)  # RGB pixels are uint8 (H, W, 3)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a segmenter says of an image.

    Attributes:
        image: What it saw, uint8 `(H, W, 3)`.
        index: The class of each pixel, uint8 `(H, W)`.
        class_set: Names and colours of the classes.
    """

    image: Pixels
    index: Pixels
    class_set: ClassSet
    _maps: Sequence[ViewScores] | None = field(repr=False)

    @property
    def colours(self) -> Image.Image:
        """The index map as an image with the classes' palette; its pixels are the ids."""
        image = Image.fromarray(self.index)
        image.putpalette(self.class_set.palette())
        return image

    @property
    def overlay(self) -> Image.Image:
        """The colours laid over the image."""
        return Image.fromarray(overlay(self.image, self.index, self.class_set))

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """The probability of each class in each pixel, float32 `(classes, H, W)`.

        Raises:
            DrnError: The network outputs class ids only.
        """
        if self._maps is None:
            raise DrnError(
                "probabilities: this network outputs class ids only", "export it without --argmax"
            )
        return probabilities(self._maps, *self.index.shape).cpu().numpy()

    @property
    def shares(self) -> dict[str, float]:
        """Which part of the image each class that occurs takes up, the largest first."""
        ids, counts = np.unique(self.index, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        names = self.class_set.names
        return {names[ids[k]]: float(counts[k] / self.index.size) for k in order}


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What a classifier says of an image.

    Attributes:
        names: Of its classes.
        probabilities: Of each, float64 `(classes,)`.
    """

    names: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Give the likeliest classes with their probabilities, the first of equals first."""
        order = topk(torch.from_numpy(self.probabilities)[None], count)[0].tolist()
        return [(self.names[k], float(self.probabilities[k])) for k in order]


class Predictor:
    """A network that is ready for images: a segmenter or a classifier, of any file.

    Args:
        source: A run folder, a checkpoint of any known format, an exported network (.onnx, .xml,
            .pt2), or the name of a network with published weights; None is the newest run
            that has a best network.
        device: `cuda`, `cuda:1`, `cpu`; by default a GPU if there is one.
        scales: Sizes that a segmenter sees an image at, `drn_cli.MULTI_SCALE` being the paper's;
            by default as in the run's recipe, or once.
        flip: Whether it sees the mirrored image too.
        tile: Longest side of the tiles it sees, in pixels; by default as large as memory allows.
        ten_crop: Whether a classifier averages over ten crops.
        precision: What it computes in; auto is 16 bits on GPUs.
        mean: Mean of each channel that inputs are normalized with, three numbers in 0..1; `std`
            goes with it. By default as in its file.
        std: Standard deviation of each channel, three numbers in 1e-6..1.
        stats: A data folder whose info.json has both, instead of them.

    Raises:
        DrnError: There is no such network, or it cannot do what is asked of it.
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
        _check(network, ten_crop, (scales, flip, tile) != (None, None, None), precision)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        kind = autocast_type(resolve_precision(precision, place))
        computing: dict[str, Any] = {"autocast": kind, "given": given}
        self.arch, self.task = network.arch, network.task
        self._network = (
            load_classifier(
                network,
                place,
                view="10-crop" if ten_crop else "1-crop",
                **found.crop_settings(),
                **computing,
            )
            if network.task == "classification"
            else load_predictor(
                network,
                place,
                view=found.view(None if scales is None else tuple(scales), flip, tile),
                concurrency=1,
                **computing,
            )
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes."""
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
        """Predict the class of each pixel of an image, or the class of an image; or of several.

        Args:
            image: A path, the content of a file, a file opened in binary mode, a Pillow image, or
                RGB pixels, uint8 `(H, W, 3)`; or a list of these. A file, its content and the
                Pillow image that is opened from it give the same result.

        Returns:
            One result, or a list of them for a list.

        Raises:
            DrnError: An image cannot be read, an array is of another shape or type, scores are not
                finite, or memory does not suffice.
            TypeError: It is something else.
        """
        if isinstance(image, list | tuple):
            count = len(image)
            return [self._predict(one, f"image {n} of {count}") for n, one in enumerate(image, 1)]
        return self._predict(image)

    def _predict(self, image: ImageInput, place: str | None = None) -> Prediction | Classification:
        """Predict an image, whose place in a list names it where no file does."""
        name = source_name(image)
        try:
            pixels = _pixels(image)
        except DrnError as error:
            if name is not None or place is None:
                raise
            problem = error.message.removeprefix("image: ")
            raise DrnError(f"{place}: {problem}", error.hint) from error
        name = name or place or "the image"
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


def _check(network: OpenedNetwork, ten_crop: bool, viewed: bool, precision: str) -> None:
    """See that nothing is asked for that means nothing for a network."""
    if ten_crop and network.task == "segmentation":
        raise DrnError("ten_crop: is for classifiers, and this is a segmenter")
    if viewed and network.task == "classification":
        raise DrnError("scales, flip, tile: are for segmenters, and this is a classifier")
    if isinstance(network, ExportedNetwork) and precision not in ("auto", "fp32"):
        raise DrnError(
            f"precision={precision!r}: {network.path} computes in what it was exported in"
        )


def _pixels(image: ImageInput) -> Pixels:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DrnError(
                f"an array of {image.dtype} {image.shape}: RGB pixels are uint8 (H, W, 3)",
                "a path, a file's content or a Pillow image will do, too",
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
