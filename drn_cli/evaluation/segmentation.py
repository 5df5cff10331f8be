"""Score a segmenter on labelled pictures."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import Sample
from drn_cli.data.images import Pixels
from drn_cli.distributed.group import Group
from drn_cli.evaluation.confusion import Scores, confusion
from drn_cli.inference.predictor import Predictor
from drn_cli.inference.reading import ahead, one_thread_each

MOST_THREADS = 8  # each holds the activations of a picture


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    group: Group,
    step: Callable[[], object] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Predict every picture once, whole, and compare.

    Each process takes its share and the matrices are added up: the scores do not depend on how
    many processes there are.

    Args:
        predictor: The network with its settings.
        samples: All of them, in every process.
        group: The processes.
        step: Called after each picture of this process.
        stop: Asked after it; where it says so in any process, all give up.

    Returns:
        The scores; None if it was given up.

    Raises:
        DrnError: A picture or label cannot be read or does not fit.
    """
    classes = predictor.classes
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=group.device)
    each = _on_cpu if group.device.type == "cpu" else _on_gpu
    stopped = False
    for counts in each(predictor, group.share(samples)):
        matrix += counts
        step()
        if stopped := stop():
            break
    if group.any(stopped):
        return None
    return Scores.of(group.sum(matrix).cpu().numpy(), len(samples))


def _on_gpu(predictor: Predictor, samples: Sequence[Sample]) -> Iterator[Tensor]:
    """Read pictures while the GPU works on those before."""
    for sample, pair in ahead(lambda sample: read_pair(sample, predictor.classes), samples):
        yield _count(predictor, sample, *pair())


def _on_cpu(predictor: Predictor, samples: Sequence[Sample]) -> Iterator[Tensor]:
    """Work on as many pictures as there are threads, each in a single thread."""

    def count(sample: Sample) -> Tensor:
        return _count(predictor, sample, *read_pair(sample, predictor.classes))

    return one_thread_each(count, samples, min(torch.get_num_threads(), MOST_THREADS))


def _count(predictor: Predictor, sample: Sample, image: Pixels, label: Pixels) -> Tensor:
    """Give a picture's confusion matrix."""
    labels = torch.from_numpy(label).to(predictor.device)
    return confusion(predictor(image), labels, predictor.classes, sample.label)
