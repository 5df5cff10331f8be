"""Networks at work: from pictures to scores, and from pictures to answers, at one size or six.

`forward` is the network alone: normalised pictures on the device in, scores at an eighth of the
size (or logits, of a classifier) out, for which runtimes can be compared. `predict` is all that
`drn predict` does between reading and writing: pixels in memory in, on the device and normalised,
the class of each pixel (or the probability of each class) out, in memory again. `multi-scale` is
`predict` at the six sizes of the paper.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from drn_cli.bench.cases import Case
from drn_cli.bench.subject import EAGER, Subject
from drn_cli.data.batches import normalise
from drn_cli.data.images import Pixels
from drn_cli.device import autocast, autocast_type
from drn_cli.inference.classifier import Classifier
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.opening import TrainedNetwork
from drn_cli.inference.predictor import PixelPredictor
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.recipe.schema import MULTI_SCALE, Eval

Call = Callable[[], object]


def noise(case: Case) -> Pixels:
    """Draw a batch of pictures: uint8 `(N, H, W, 3)`."""
    shape = (case.batch, *case.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def forward(subject: Subject, case: Case, device: torch.device) -> Call:
    """Make the network alone ready."""
    ready = _predictor if subject.task == "segmentation" else _classifier
    made = ready(subject, case, device)
    pictures = normalise(torch.from_numpy(noise(case)).to(device), made.statistics)

    @torch.inference_mode()
    def call() -> Tensor:
        with autocast(device, case.precision or "fp32"):
            return made.network(pictures)

    return call


def predict(subject: Subject, case: Case, device: torch.device) -> Call:
    """Make whole predictions ready."""
    images = list(noise(case))
    if subject.task == "segmentation":
        predictor = _predictor(subject, case, device)
        return lambda: [classes.cpu() for classes in predictor.batch(images)]
    classifier = _classifier(subject, case, device)

    def call() -> Tensor:
        crops = np.stack([classifier.crops(image) for image in images])
        return classifier.log_probabilities(torch.from_numpy(crops).to(device)).cpu()

    return call


def _predictor(subject: Subject, case: Case, device: torch.device) -> PixelPredictor:
    made = load_predictor(
        subject.network,
        device,
        view=Eval(scales=MULTI_SCALE) if case.what == "multi-scale" else Eval(),
        autocast=autocast_type(case.precision or "fp32"),
        compiled=case.compiled,
        at_once=1,  # one call has all threads
    )
    if case.runtime == EAGER:
        return replace(made, network=_plain(subject, case, device))
    return made


def _classifier(subject: Subject, case: Case, device: torch.device) -> Classifier:
    side = min(case.size)
    made = load_classifier(
        subject.network,
        device,
        crop=side,
        resize=side,
        autocast=autocast_type(case.precision or "fp32"),
        compiled=case.compiled,
    )
    if case.runtime == EAGER:
        return replace(made, network=_plain(subject, case, device))
    if isinstance(subject.network, ExportedNetwork):
        run = subject.network.session(device, 1)  # one call has all threads
        return replace(made, network=lambda pictures: run(pictures, "logits"))
    return made


def _plain(subject: Subject, case: Case, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Give the network as it is built, in its own memory format."""
    assert isinstance(subject.network, TrainedNetwork)
    model = deepcopy(subject.network.model).to(device).eval()
    call = model if subject.task == "classification" else model.scores
    if case.compiled:
        call = torch.compile(call, dynamic=False)
    return lambda pictures: call(pictures.contiguous())
