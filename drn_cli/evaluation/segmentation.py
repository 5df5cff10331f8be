"""IoU of a segmenter, or of saved predictions, on labeled images."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import Sample
from drn_cli.data.images import Pixels
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError, FaultError
from drn_cli.evaluation.confusion import ImageScores, SegmentationScores, confusion
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.reading import default_concurrency, map_in_threads, prefetch
from drn_cli.inference.score_maps import name_in_errors

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")

# Confusion matrix of an image, and the sum and the count of its pixel losses if requested.
Counts = tuple[Tensor, Tensor | None]
Read = Callable[[Sample], tuple[Pixels, Pixels]]


def evaluate(
    predictor: SegmentationPredictor,
    samples: Sequence[Sample],
    group: Group,
    *,
    read: Read | None = None,
    per_image: bool = False,
    partial: bool = False,
    loss: bool = False,
    step: Callable[[], object] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> SegmentationScores | None:
    """Predict each image once and compare it with its label map.

    Images are sharded over the processes and confusion matrices are summed: the scores do not
    depend on the number of processes. Predictions are not kept.

    Args:
        predictor: The network with its settings.
        samples: All images, in every process.
        group: The processes.
        read: Reads image `(H, W, 3)` and label map `(H, W)` of a sample, in another thread; by
            default at their own sizes.
        per_image: Whether to return the scores of each image.
        partial: Whether to skip images that fail.
        loss: Whether to compute the cross-entropy at scale 1.
        step: Called after each image of this process.
        stop: Polled after each image; True in any process stops all of them.

    Returns:
        The scores, or None if stopped.

    Raises:
        NonFiniteScoresError: A score of an image is NaN or infinite.
        DrnError: An image or label map cannot be read, or their sizes differ (with `partial`: all
            images fail).
    """
    read_sample = read or (lambda sample: read_pair(sample, predictor.classes))

    def count(sample: Sample, image: Pixels, label: Pixels) -> Counts:
        labels = torch.from_numpy(label).to(predictor.device)
        with name_in_errors(sample.image):
            if loss and labels.shape == image.shape[:2]:
                classes, losses = predictor.with_loss(image, labels)
            else:
                classes, losses = predictor(image), None
        return confusion(classes, labels, predictor.classes, sample.label), losses

    counted = errors_as_results(count) if partial else count
    read_part = errors_as_results(read_sample) if partial else read_sample

    def score(sample: Sample, pair: tuple[Pixels, Pixels] | DrnError) -> Counts | DrnError:
        return pair if isinstance(pair, DrnError) else counted(sample, *pair)

    mine = group.shard(samples)
    if group.device.type == "cpu":
        # Images are computed concurrently, each in one thread.
        counts = map_in_threads(
            lambda sample: score(sample, read_part(sample)), mine, default_concurrency(group.device)
        )
    else:
        counts = (score(sample, pair()) for sample, pair in prefetch(read_part, mine))
    return _add_up(counts, predictor.classes, samples, group, per_image, step, stop)


def compare(
    samples: Sequence[Sample],
    classes: int,
    group: Group,
    *,
    read: Read,
    per_image: bool = False,
    partial: bool = False,
    step: Callable[[], object] = lambda: None,
) -> SegmentationScores:
    """Compare saved predictions with label maps; sharding and errors as in `evaluate`.

    Args:
        samples: Samples whose `image` is the saved prediction.
        classes: Number of classes.
        group: The processes.
        read: Reads prediction and label map of a sample, both `(H, W)`.
        per_image: Whether to return the scores of each image.
        partial: Whether to skip images that fail.
        step: Called after each image of this process.
    """

    def count(sample: Sample) -> Counts:
        prediction, label = map(torch.from_numpy, read(sample))
        return confusion(prediction, label, classes, sample.label).to(group.device), None

    threads = torch.get_num_threads()
    work = errors_as_results(count) if partial else count
    counts = map_in_threads(work, group.shard(samples), threads)
    scores = _add_up(counts, classes, samples, group, per_image, step, lambda: False)
    assert scores is not None  # it is never stopped
    return scores


def errors_as_results(work: Callable[Inputs, Result]) -> Callable[Inputs, Result | DrnError]:
    """Return DrnErrors instead of raising them, except faults of the machine (FaultError)."""

    def attempt(*inputs: Inputs.args, **named: Inputs.kwargs) -> Result | DrnError:
        try:
            return work(*inputs, **named)
        except FaultError:
            raise
        except DrnError as error:
            return error

    return attempt


def gather_failures(
    failed: Sequence[tuple[int, str, str]], images: int, group: Group
) -> tuple[dict[str, str], ...]:
    """Return the failed images of all processes with their errors, in order, as JSON objects.

    Args:
        failed: Index, path and error message of each image of this process that failed.
        images: Number of images of all processes.
        group: The processes.

    Raises:
        DrnError: All images failed.
    """
    failures = sorted(one for part in group.gather_objects(failed) for one in part)
    if len(failures) == images:
        raise DrnError(f"no image could be scored; the first of {images} errors: {failures[0][2]}")
    return tuple({"image": image, "error": error} for _, image, error in failures)


def _add_up(
    counts: Iterable[Counts | DrnError],
    classes: int,
    samples: Sequence[Sample],
    group: Group,
    per_image: bool,
    step: Callable[[], object],
    stop: Callable[[], bool],
) -> SegmentationScores | None:
    """Sum the confusion matrices of the images of this process, then of all processes."""
    matrix = torch.zeros(classes, classes + 1, dtype=torch.int64, device=group.device)
    images: list[ImageScores] = []
    failed: list[tuple[int, str, str]] = []
    losses: list[Tensor] = []
    stopped = False
    for number, counted in zip(group.shard(range(len(samples))), counts, strict=True):
        if isinstance(counted, DrnError):
            failed.append((number, str(samples[number].image), str(counted)))
            step()
            continue
        of_image, loss = counted
        matrix += of_image
        if loss is not None:
            losses.append(loss)
        if per_image:
            image, label = samples[number].image, samples[number].label
            scores = ImageScores.of(of_image.cpu().numpy(), number, str(image), str(label))
            images.append(scores)
        step()
        if stopped := stop():
            break
    if group.any(stopped):
        return None
    total = group.sum(matrix).cpu().numpy()
    gathered = [one for part in group.gather_objects(images) for one in part]
    lost = gather_failures(failed, len(samples), group)
    ordered = sorted(gathered, key=lambda one: one.number)
    mean = mean_loss(torch.stack(losses).tolist() if losses else [], group)
    return SegmentationScores.of(total, len(samples) - len(lost), ordered, lost, mean)


def mean_loss(losses: Sequence[tuple[float, float]], group: Group) -> float | None:
    """Return the mean loss over the images of all processes.

    Args:
        losses: Loss sum and number of pixels (or images) of each image of this process.
        group: The processes.
    """
    pairs = [pair for part in group.gather_objects(losses) for pair in part]
    # fsum is exact, so the result depends neither on the order nor on the number of processes.
    count = math.fsum(number for _, number in pairs)
    return math.fsum(total for total, _ in pairs) / count if count else None
