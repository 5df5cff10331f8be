"""The same numbers for TensorBoard, and a few validation images."""

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
from drn_cli.training.tasks import classifier_of, predictor_of

IMAGES = 4
WIDTH = 512  # of an image that is shown, in pixels
LINE = 14  # height of a line of text, in pixels


def check_installed() -> None:
    """See that there is a TensorBoard to write for.

    Raises:
        DrnError: There is none.
    """
    if find_spec("tensorboard") is None:
        raise DrnError(
            "train.tensorboard: the package tensorboard is not installed",
            "pip install 'drn-cli[tensorboard]', or train.tensorboard=false",
        )


class TensorBoardLogger:
    """Writes event files into the run folder's `tensorboard/`.

    Args:
        run: The run.
        step: Where it goes on; what was written for later steps is hidden.
    """

    def __init__(self, run: Run, step: int) -> None:
        check_installed()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=step)

    def numbers(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write a line of metrics, a curve for each number."""
        for name, value in values.items():
            if isinstance(value, dict):
                self.numbers(f"{kind} {name}", step, value)
            elif isinstance(value, int | float):
                self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def images(self, training: TrainState, step: int) -> None:
        """Write what the network sees in the first validation images."""
        for number, shown in enumerate(examples(training, training.material.val[:IMAGES])):
            self._writer.add_image(f"validation/{number}", shown, step, dataformats="HWC")
        self._writer.flush()


def examples(training: TrainState, samples: Sequence[Any]) -> Iterator[Pixels]:
    """Draw samples: the image, what it is and what the network takes it for."""
    if training.recipe.task == "classification":
        classifier = classifier_of(training)
        return (_classified(classifier, sample) for sample in samples)
    predictor = predictor_of(training)
    return (_segmented(predictor, sample) for sample in samples)


def _segmented(predictor: SegmentationPredictor, sample: Sample) -> Pixels:
    """Put image, label and prediction side by side."""
    image, label = read_pair(sample, predictor.classes)
    palette = np.frombuffer(predictor.class_set.palette(), np.uint8).reshape(256, 3)
    step = -(-image.shape[1] // WIDTH)  # every so many pixels
    maps = [palette[label], palette[predictor(image).cpu().numpy()]]
    return np.concatenate([part[::step, ::step] for part in (image, *maps)], axis=1)


def _classified(classifier: ClassificationPredictor, sample: ClassSample) -> Pixels:
    """Write the true and the predicted class below the crop."""
    crops = classifier.crops(read_image(sample.image))
    probabilities = classifier.log_probabilities(
        torch.from_numpy(crops)[None].to(classifier.device)
    )[0].exp()
    best = int(probabilities.argmax())
    names = classifier.names
    text = (f"is {names[sample.target]}", f"seen {names[best]} {probabilities[best]:.0%}")
    return np.concatenate([crops[0], _written(text, crops.shape[2])])


def _written(lines: Sequence[str], width: int) -> Pixels:
    strip = Image.new("RGB", (width, LINE * len(lines)), "white")
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((2, LINE * number), line, fill="black")
    return np.asarray(strip)
