"""Score a segmenter on labelled pictures."""

from collections.abc import Callable, Sequence

import torch

from drn_cli.data.batches import read_pair
from drn_cli.data.folders import Sample
from drn_cli.distributed.group import Group
from drn_cli.evaluation.confusion import Scores, confusion
from drn_cli.inference.predictor import Predictor
from drn_cli.inference.reading import ahead


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    group: Group,
    step: Callable[[], object] = lambda: None,
) -> Scores:
    """Predict every picture once, whole, and compare.

    Each process takes its share and the matrices are added up: the scores do not depend on how
    many processes there are.

    Args:
        predictor: The network with its settings.
        samples: All of them, in every process.
        group: The processes.
        step: Called after each picture of this process.

    Raises:
        DrnError: A picture or label cannot be read or does not fit.
    """
    classes = predictor.classes
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=group.device)
    for sample, read in ahead(lambda sample: read_pair(sample, classes), group.share(samples)):
        image, label = read()
        prediction = predictor(image)
        labels = torch.from_numpy(label).to(group.device)
        matrix += confusion(prediction, labels, classes, sample.label)
        step()
    return Scores.of(group.sum(matrix).cpu().numpy(), len(samples))
