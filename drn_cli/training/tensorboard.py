"""TensorBoard: metrics, and the predictions of a few validation images."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from drn_cli.data.class_folders import ClassSample
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import Sample
from drn_cli.data.images import Pixels, read_image
from drn_cli.errors import DrnError
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.runs import Run
from drn_cli.training.setup import TrainState
from drn_cli.training.tasks import classification_predictor, segmentation_predictor

IMAGES = 4
WIDTH = 512  # of a logged image, in pixels
LINE = 14  # height of a line of text, in pixels


def check_installed() -> None:
    """Check that TensorBoard is installed.

    Raises:
        DrnError: It is not.
    """
    if find_spec("tensorboard") is None:
        raise DrnError(
            "train.tensorboard: the package tensorboard is not installed",
            "pip install 'drn-cli[tensorboard]', or train.tensorboard=false",
        )


class TensorBoardLogger:
    """Writes event files to `tensorboard/` in the run directory.

    Args:
        run: The run directory.
        step: First step; events of later steps, from before a resume, are hidden.
    """

    def __init__(self, run: Run, step: int) -> None:
        check_installed()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=step)

    def numbers(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Log each number as a scalar; nested ones under `kind name`."""
        for name, value in values.items():
            if isinstance(value, dict):
                self.numbers(f"{kind} {name}", step, value)
            elif isinstance(value, int | float):
                self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def images(self, training: TrainState, step: int) -> None:
        """Log the predictions of the first validation images."""
        for number, shown in enumerate(examples(training, training.data.val[:IMAGES])):
            self._writer.add_image(f"validation/{number}", shown, step, dataformats="HWC")
        self._writer.flush()


def examples(training: TrainState, samples: Sequence[Any]) -> Iterator[Pixels]:
    """Yield an RGB image of each sample, with its label and prediction."""
    if training.recipe.task == "classification":
        classifier = classification_predictor(training)
        return (_classified(classifier, sample) for sample in samples)
    predictor = segmentation_predictor(training)
    return (_segmented(predictor, sample) for sample in samples)


def _segmented(predictor: SegmentationPredictor, sample: Sample) -> Pixels:
    """Return image, label map and prediction side by side."""
    image, label = read_pair(sample, predictor.classes)
    palette = np.frombuffer(predictor.class_set.palette(), np.uint8).reshape(256, 3)
    step = -(-image.shape[1] // WIDTH)  # subsampling
    maps = [palette[label], palette[predictor(image).cpu().numpy()]]
    return np.concatenate([part[::step, ::step] for part in (image, *maps)], axis=1)


def _classified(classifier: ClassificationPredictor, sample: ClassSample) -> Pixels:
    """Return the crop with the true and the predicted class below it."""
    crops = classifier.crops(read_image(sample.image))
    probabilities = classifier.log_probabilities(
        torch.from_numpy(crops)[None].to(classifier.device)
    )[0].exp()
    best = int(probabilities.argmax())
    names = classifier.names
    text = f"true: {names[sample.target]}\npredicted: {names[best]} {probabilities[best]:.0%}"
    caption = Image.new("RGB", (crops.shape[2], 2 * LINE), "white")
    ImageDraw.Draw(caption).multiline_text((2, 0), text, fill="black")
    return np.concatenate([crops[0], np.asarray(caption)])
