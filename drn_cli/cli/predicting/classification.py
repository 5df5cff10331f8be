"""Images classified: the likeliest classes of each, as a table, CSV or JSON."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drn_cli.cli import console
from drn_cli.cli.images import in_order, read_input, results_of
from drn_cli.cli.predicting.record import begin_record, finish_record, provenance_of
from drn_cli.cli.predicting.segmentation import PredictOptions
from drn_cli.cli.source import InferenceOptions, describe
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from torch import Tensor

    from drn_cli.data.images import Pixels
    from drn_cli.distributed.group import Group
    from drn_cli.inference.classifier import ClassificationPredictor
    from drn_cli.inference.growing_table import ResumableCsv
    from drn_cli.inference.inputs import InputImage
    from drn_cli.inference.opening import OpenedNetwork
    from drn_cli.inference.source import Source

SHOWN = 40  # images of which a table is printed unasked


@dataclass(slots=True)
class Tally:
    """What became of this process's images.

    Attributes:
        classified, skipped: How many.
        failed: Number of each image without a result, and why.
        found: Number of each other image with its classes, where they are to be shown.
    """

    classified: int
    skipped: int
    failed: list[tuple[int, dict[str, Any]]]
    found: list[tuple[int, dict[str, Any]]]


def classify(
    inputs: Sequence[str],
    source: "Source",
    network: "OpenedNetwork",
    inference: InferenceOptions,
    options: PredictOptions,
    top_k: int,
    csv: Path | None,
) -> None:
    """Say what all images show that the inputs name.

    Raises:
        DrnError: An input, the network or a setting cannot be used, or a file not be written.
        typer.Exit: An image could not be read, or its scores are not finite.
    """
    from drn_cli.distributed.group import join
    from drn_cli.inference.growing_table import ResumableCsv, csv_lock
    from drn_cli.inference.inputs import InputImage, find_images
    from drn_cli.inference.loading import load_classifier

    if options.submission is not None or options.save is not None or options.force:
        raise DrnError(f"{source.checkpoint}: is a classifier, which labels no pixels")
    if options.skip_existing and csv is None:
        raise DrnError("--skip-existing: a classifier goes on where a --csv FILE ends")
    images = [InputImage("-", "stdin")] if list(inputs) == ["-"] else find_images(inputs)
    with join() as group, ExitStack() as stack:
        if group.is_main:
            console.note(f"{source.checkpoint} on {len(images)} images")
        classifier = load_classifier(
            network,
            group.device,
            view="10-crop" if inference.ten_crop else "1-crop",
            **source.crop_settings(),
            **inference.computing(group.device),
        )
        top = min(top_k, len(classifier.names))
        table, maker = None, {}
        if csv is not None:
            if group.is_main:
                stack.enter_context(csv_lock(csv))
            places = range(1, top + 1)
            columns = (name for n in places for name in (f"class_{n}", f"probability_{n}"))
            table = ResumableCsv(csv, ["image", *columns], group.rank, resume=options.skip_existing)
            if group.is_main:
                assert classifier.normalization is not None
                maker = provenance_of(network, classifier.normalization, {"view": classifier.view})
                begin_record(csv, maker, table.earlier_rows, resume=options.skip_existing)
            group.barrier()
            table.begin()
            stack.callback(table.end)  # of a run that fails as well
        started = time.perf_counter()
        keep = options.as_json or len(images) <= SHOWN
        tally = _classify_share(images, classifier, top, table, keep, options, group)
        tallies = group.gather_objects(tally)
        if group.is_main:
            if table is not None:
                table.finish([image.path for image in images])
                finish_record(table.path, maker)
            about = describe(source, network, classifier)
            _report(about, classifier, tallies, time.perf_counter() - started, options, csv)
    console.exit_if_failed(any(tally.failed for tally in tallies))


def _classify_share(
    images: "Sequence[InputImage]",
    classifier: "ClassificationPredictor",
    top: int,
    table: "ResumableCsv | None",
    keep: bool,
    options: PredictOptions,
    group: "Group",
) -> Tally:
    import numpy as np
    import torch

    from drn_cli.inference.classifier import topk
    from drn_cli.inference.stream import stream

    tally = Tally(0, 0, [], [])
    mine = group.shard(list(enumerate(images)))
    known = set() if table is None else table.known
    todo = [item for item in mine if item[1].path not in known]
    tally.skipped = len(mine) - len(todo)

    def read(item: "tuple[int, InputImage]") -> "Pixels":
        return classifier.crops(read_input(item))

    def answer(crops: "Sequence[Pixels]") -> "list[Tensor]":
        batch = torch.from_numpy(np.stack(crops)).to(classifier.device)
        return list(classifier.log_probabilities(batch))

    def finish(
        _: "tuple[int, InputImage]", __: "Pixels", scores: "Tensor"
    ) -> list[tuple[str, float]]:
        best = topk(scores.cpu()[None], top)[0].tolist()
        return [(classifier.names[k], float(scores[k].exp())) for k in best]

    results = stream(todo, read, answer, finish, classifier.device, options.batch)
    found = results_of(results, len(todo), tally.failed, shown=group.is_main)
    for number, image, best in found:
        tally.classified += 1
        if table is not None:
            cells = (cell for name, share in best for cell in (name, f"{share:.6f}"))
            table.add((image.path, *cells))
        if keep:
            classes = [{"class": name, "probability": share} for name, share in best]
            tally.found.append((number, {"image": image.path, "classes": classes}))
    if table is not None:
        table.end()
    return tally


def _report(
    about: dict[str, Any],
    classifier: "ClassificationPredictor",
    tallies: Sequence[Tally],
    seconds: float,
    options: PredictOptions,
    csv: Path | None,
) -> None:
    classified = sum(tally.classified for tally in tallies)
    skipped = sum(tally.skipped for tally in tallies)
    found = in_order(tally.found for tally in tallies)
    failed = in_order(tally.failed for tally in tallies)
    speed = classified / seconds
    if options.as_json:
        console.emit_json(
            {
                **about,
                "view": classifier.view,
                "results": found,
                "skipped": skipped,
                "failed": failed,
                "seconds": round(seconds, 3),
                "images_per_second": round(speed, 3),
            }
        )
    else:
        if found:
            _print(found)
        before = f", {skipped} were there already" if skipped else ""
        where = f": {csv}" if csv else ""
        console.out.print(
            f"{classified} images classified, {speed:.1f} a second{before}{where}",
            soft_wrap=True,
        )
        if not found and classified and csv is None:
            console.note("too many for a table: --csv FILE or --json has the classes of each")
    if failed:
        total = classified + skipped + len(failed)
        console.note(f"{len(failed)} of {total} images failed")


def _print(found: Sequence[dict[str, Any]]) -> None:
    places = [str(n) for n in range(1, len(found[0]["classes"]) + 1)]
    table = console.table("image", *places, fold=True)
    for entry in found:
        cells = (f"{one['class']} {100 * one['probability']:.1f} %" for one in entry["classes"])
        table.add_row(entry["image"], *cells)
    console.out.print(table)
