"""Score a segmenter, or predictions that were saved, on labelled images."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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

# The confusion matrix of an image, and the sum and the number of its losses if they are wanted.
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
    """Predict every image once and compare.

    Each process takes its share and the matrices are added up: the scores do not depend on how
    many processes there are. What is kept of an image are its scores, if anything.

    Args:
        predictor: The network with its settings.
        samples: All of them, in every process.
        group: The processes.
        read: Reads image `(H, W, 3)` and label `(H, W)` of a sample, in another thread; by
            default as they are.
        per_image: Whether the scores of each image are wanted too.
        partial: Whether the others are scored where an image fails.
        loss: Whether to compute the cross-entropy of the images at scale 1 too.
        step: Called after each image of this process.
        stop: Asked after it; where it says so in any process, all give up.

    Returns:
        The scores; None if it was given up.

    Raises:
        NonFiniteScoresError: A score of an image is NaN or infinite.
        DrnError: An image or label cannot be read or does not fit; with `partial`, all of them.
    """

    def read_sample(sample: Sample) -> tuple[Pixels, Pixels]:
        return read(sample) if read is not None else read_pair(sample, predictor.classes)

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

    def look(sample: Sample, pair: tuple[Pixels, Pixels] | DrnError) -> Counts | DrnError:
        return pair if isinstance(pair, DrnError) else counted(sample, *pair)

    mine = group.shard(samples)
    if group.device.type == "cpu":
        # As many images as there are threads, each in a single one.
        counts = map_in_threads(
            lambda sample: look(sample, read_part(sample)), mine, default_concurrency(group.device)
        )
    else:
        counts = (look(sample, pair()) for sample, pair in prefetch(read_part, mine))
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
    """Compare predictions that were saved with labels; as `evaluate`.

    Args:
        samples: Whose `image` is the prediction.
        classes: Number of classes.
        group: The processes.
        read: Reads prediction and label, `(H, W)` both, of a sample.
        per_image: Whether the scores of each image are wanted too.
        partial: Whether the others are scored where an image fails.
        step: Called after each image of this process.
    """

    def count(sample: Sample) -> Counts:
        prediction, label = map(torch.from_numpy, read(sample))
        return confusion(prediction, label, classes, sample.label).to(group.device), None

    threads = torch.get_num_threads()
    work = errors_as_results(count) if partial else count
    counts = map_in_threads(work, group.shard(samples), threads)
    scores = _add_up(counts, classes, samples, group, per_image, step, lambda: False)
    assert scores is not None  # nobody stops it
    return scores


def errors_as_results(work: Callable[Inputs, Result]) -> Callable[Inputs, Result | DrnError]:
    """Let an error of one image be its result; a fault of the machine stays one."""

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
    """Gather the images that failed from all processes, in their order, ready for JSON.

    Args:
        failed: Number, name and error of each image of this process that failed.
        images: Number of images of all processes.
        group: The processes.

    Raises:
        DrnError: None of the images can be scored.
    """
    lost = sorted(one for part in group.gather_objects(failed) for one in part)
    if len(lost) == images:
        raise DrnError(f"none of {images} images can be scored; the first: {lost[0][2]}")
    return tuple({"image": image, "error": error} for _, image, error in lost)


def _add_up(
    counts: Iterable[Counts | DrnError],
    classes: int,
    samples: Sequence[Sample],
    group: Group,
    per_image: bool,
    step: Callable[[], object],
    stop: Callable[[], bool],
) -> SegmentationScores | None:
    """Sum the matrices of this process's share, image by image, then those of all processes."""
    matrix = torch.zeros(classes, classes + 1, dtype=torch.int64, device=group.device)
    images: list[ImageScores] = []
    failed: list[tuple[int, str, str]] = []
    losses: list[Tensor] = []
    stopped = False
    for number, counted in zip(_numbers(samples, group), counts, strict=True):
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
    """Return the mean over the images of all processes, whatever their number.

    Args:
        losses: Sum of the loss and number of pixels, or of images, of each of this process.
        group: The processes.
    """
    pairs = [pair for part in group.gather_objects(losses) for pair in part]
    # fsum is exact: neither the order of the images nor the number of processes matters.
    count = math.fsum(number for _, number in pairs)
    return math.fsum(total for total, _ in pairs) / count if count else None


def _numbers(samples: Sequence[Sample], group: Group) -> Iterator[int]:
    return iter(group.shard(range(len(samples))))
