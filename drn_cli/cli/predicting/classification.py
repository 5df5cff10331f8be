"""Classify images: top-k classes as a table, CSV or JSON."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drn_cli.cli import console
from drn_cli.cli.images import count_images, merge_in_order, read_input, with_progress
from drn_cli.cli.predicting.record import begin_table, finish_table, provenance_of
from drn_cli.cli.predicting.segmentation import PredictionSummary, PredictOptions, report
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

SHOWN = 40  # images; a table of more is not printed


def classify(
    inputs: Sequence[str],
    source: "Source",
    network: "OpenedNetwork",
    inference: InferenceOptions,
    options: PredictOptions,
    top_k: int,
    csv: Path | None,
) -> None:
    """Print or write the most probable classes of all input images.

    Raises:
        DrnError: An input, the network or an option cannot be used, or a file cannot be written.
        typer.Exit: An image cannot be read, or its scores are not finite.
    """
    from drn_cli.distributed.group import join
    from drn_cli.inference.growing_table import ResumableCsv, csv_lock
    from drn_cli.inference.inputs import InputImage, find_images

    if options.submission is not None or options.save is not None or options.force:
        raise DrnError(
            "--save, --force, --cityscapes-submission: for segmenters only",
            f"{source.checkpoint} is a classifier",
        )
    if options.skip_existing and csv is None:
        raise DrnError("--skip-existing: requires --csv FILE with a classifier")
    images = [InputImage("-", "stdin")] if list(inputs) == ["-"] else find_images(inputs)
    with join() as group, ExitStack() as stack:
        if group.is_main:
            console.note(f"{source.checkpoint} on {count_images(len(images))}")
        classifier = inference.classifier(network, group.device, **source.crop_settings())
        top = min(top_k, len(classifier.names))
        table, provenance = None, {}
        if csv is not None:
            if group.is_main:
                stack.enter_context(csv_lock(csv))
            places = range(1, top + 1)
            columns = (name for n in places for name in (f"class_{n}", f"probability_{n}"))
            table = ResumableCsv(csv, ["image", *columns], group.rank, resume=options.skip_existing)
            if group.is_main:
                assert classifier.normalization is not None
                provenance = provenance_of(
                    network, classifier.normalization, {"view": classifier.view}
                )
                begin_table(csv, provenance, table.earlier_rows, resume=options.skip_existing)
            group.barrier()
            table.begin()
            stack.callback(table.end)  # also if the run fails
        started = time.perf_counter()
        keep = options.as_json or len(images) <= SHOWN
        summaries = group.gather_objects(
            _classify_shard(images, classifier, top, table, keep, options, group)
        )
        seconds = time.perf_counter() - started
        if group.is_main:
            if table is not None:
                table.finish([image.path for image in images])
                finish_table(table.path, provenance)
            found = merge_in_order(summary.entries for summary in summaries)
            if found and not options.as_json:
                _print(found)
            about = describe(source, network, classifier) | {"view": classifier.view}
            where = f": {csv}" if csv else ""
            report(about, summaries, seconds, options, "classified", where)
            if not keep and csv is None:
                console.note(
                    f"more than {SHOWN} images: use --csv FILE or --json for their classes"
                )
    console.exit_if_failed(any(summary.failed for summary in summaries))


def _classify_shard(
    images: "Sequence[InputImage]",
    classifier: "ClassificationPredictor",
    top: int,
    table: "ResumableCsv | None",
    keep: bool,
    options: PredictOptions,
    group: "Group",
) -> PredictionSummary:
    import numpy as np
    import torch

    from drn_cli.inference.classifier import topk
    from drn_cli.inference.stream import stream

    summary = PredictionSummary()
    mine = group.shard(list(enumerate(images)))
    known = set() if table is None else table.known
    todo = [item for item in mine if item[1].path not in known]
    summary.skipped = len(mine) - len(todo)

    def read(item: "tuple[int, InputImage]") -> "Pixels":
        return classifier.crops(read_input(item))

    def predict(crops: "Sequence[Pixels]") -> "list[Tensor]":
        batch = torch.from_numpy(np.stack(crops)).to(classifier.device)
        return list(classifier.log_probabilities(batch))

    def finish(
        _: "tuple[int, InputImage]", __: "Pixels", scores: "Tensor"
    ) -> list[tuple[str, float]]:
        best = topk(scores.cpu()[None], top)[0].tolist()
        return [(classifier.names[k], float(scores[k].exp())) for k in best]

    results = stream(todo, read, predict, finish, classifier.device, options.batch)
    found = with_progress(results, len(todo), summary.failed, shown=group.is_main)
    with summary.note_if_interrupted(len(todo)) if table else nullcontext():
        for number, image, best in found:
            summary.done += 1
            if table is not None:
                cells = (cell for name, value in best for cell in (name, f"{value:.6f}"))
                table.add((image.path, *cells))
            if keep:
                classes = [{"class": name, "probability": value} for name, value in best]
                summary.entries.append((number, {"image": image.path, "classes": classes}))
    if table is not None:
        table.end()
    return summary


def _print(found: Sequence[dict[str, Any]]) -> None:
    places = [str(n) for n in range(1, len(found[0]["classes"]) + 1)]
    table = console.table("image", *places, fold=True)
    for entry in found:
        cells = (f"{one['class']} {100 * one['probability']:.1f} %" for one in entry["classes"])
        table.add_row(entry["image"], *cells)
    console.out.print(table)
