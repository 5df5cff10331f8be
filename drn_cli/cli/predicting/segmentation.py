"""Write segmentation maps of images."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drn_cli.cli import console
from drn_cli.cli.images import (
    count_images,
    display_name,
    merge_in_order,
    read_input,
    with_progress,
)
from drn_cli.cli.predicting.record import open_manifest, provenance_of, unfinished_images
from drn_cli.cli.source import InferenceOptions, describe
from drn_cli.errors import DrnError, few_of

if TYPE_CHECKING:
    from torch import Tensor

    from drn_cli.data.images import Pixels
    from drn_cli.distributed.group import Group
    from drn_cli.inference.inputs import InputImage
    from drn_cli.inference.opening import OpenedNetwork
    from drn_cli.inference.outputs import Kind
    from drn_cli.inference.predictor import SegmentationPredictor
    from drn_cli.inference.source import Source


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """Output options of `drn predict`."""

    out: Path  # folder for the predictions, or `-` for stdout
    save: "tuple[Kind, ...] | None"  # kinds of files to write, if given
    skip_existing: bool  # whether to skip images whose predictions exist
    submission: Path | None  # zip file for the Cityscapes server
    partial: bool  # whether the submission may lack images
    batch: int | None  # batch size of images of one size on a GPU
    as_json: bool  # whether to print JSON
    force: bool = False  # whether to delete maps of another network that would remain

    @property
    def kinds(self) -> "tuple[Kind, ...]":
        """Kinds of files written for each image."""
        from drn_cli.inference.outputs import DEFAULT_KINDS

        kinds = self.save or DEFAULT_KINDS
        # A submission is packed from the index maps.
        return kinds if self.submission is None or "index" in kinds else ("index", *kinds)


@dataclass(slots=True)
class PredictionSummary:
    """Results of the images of one process."""

    done: int = 0  # images
    skipped: int = 0
    # Number and JSON entry of each image that failed
    failed: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    # Number and JSON entry of each other image, if they are printed
    entries: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @contextmanager
    def note_if_interrupted(self, total: int) -> Iterator[None]:
        """On Ctrl-C, print how many images are done, and how to continue."""
        try:
            yield
        except KeyboardInterrupt:
            console.note(
                f"at least {self.done} of {count_images(total)} predicted "
                "(the same command with --skip-existing predicts the others)"
            )
            raise


def segment(
    inputs: Sequence[str],
    source: "Source",
    network: "OpenedNetwork",
    inference: InferenceOptions,
    options: PredictOptions,
) -> None:
    """Write the predictions of all input images.

    Raises:
        DrnError: An input, the network or an option cannot be used, or a file cannot be written.
        typer.Exit: An image cannot be read, or its scores are not finite.
    """
    from drn_cli.distributed.group import join
    from drn_cli.inference.inputs import InputImage, find_images
    from drn_cli.inference.outputs import KINDS
    from drn_cli.inference.reading import default_concurrency

    outputs = [options.out / kind for kind in KINDS]
    stdin = list(inputs) == ["-"]
    files = [InputImage("-", "stdin")] if stdin else find_images(inputs, outputs)
    with join() as group:
        if options.submission is not None:
            _check_submission(network, files, options)
        if group.is_main:
            console.note(f"{source.checkpoint} on {count_images(len(files))}")
        concurrency = default_concurrency(group.device, len(files))
        predictor = inference.segmenter(network, group.device, concurrency=concurrency)
        with ExitStack() as stack:
            if group.is_main:
                assert predictor.normalization is not None
                view = {"scales": list(inference.view.scales), "flip": inference.view.flip}
                manifest = stack.enter_context(
                    open_manifest(
                        options.out,
                        provenance_of(network, predictor.normalization, view),
                        [file.name for file in files],
                        options.kinds,
                        resume=options.skip_existing,
                        force=options.force,
                    )
                )
            group.barrier()
            started = time.perf_counter()
            summary = _segment_shard(files, predictor, options, group)
            seconds = time.perf_counter() - started
            summaries = group.gather_objects(summary)
            complete = not any(summary.failed for summary in summaries)
            if group.is_main:
                failed = [files[number].name for each in summaries for number, _ in each.failed]
                if kept := manifest.finish(failed):
                    console.warn(
                        f"{options.out}: failed images keep maps of another network or "
                        f"view, {len(kept):,}: {few_of(kept, 3)} (correct the images and predict "
                        "them again)"
                    )
            if group.is_main and options.submission is not None and complete:
                _pack(files, options)
        if group.is_main:
            about = describe(source, network, predictor)
            folders = ", ".join(str(options.out / kind) for kind in options.kinds)
            report(about, summaries, seconds, options, "segmented", f": {folders}")
            if options.submission is not None and not complete:
                console.warn(f"{options.submission}: not written (some images have no prediction)")
    console.exit_if_failed(not complete)


def _check_submission(
    network: "OpenedNetwork", files: "Sequence[InputImage]", options: PredictOptions
) -> None:
    from drn_cli.data.classes import cityscapes
    from drn_cli.evaluation.submission import check_inputs

    if network.classes != len(cityscapes()):
        raise DrnError(
            f"{network.path}: has {network.classes} classes, not the {len(cityscapes())} of the "
            "benchmark"
        )
    check_inputs([file.path for file in files], partial=options.partial)


def _segment_shard(
    files: "Sequence[InputImage]",
    predictor: "SegmentationPredictor",
    options: PredictOptions,
    group: "Group",
) -> PredictionSummary:
    from drn_cli.inference.outputs import is_written, write_prediction
    from drn_cli.inference.stream import stream

    kinds, out = options.kinds, options.out
    summary = PredictionSummary()
    todo = []
    unfinished = unfinished_images(out) if options.skip_existing else set()
    for number, file in group.shard(list(enumerate(files))):
        name = file.name
        exists = options.skip_existing and is_written(out, name, kinds)
        if exists and name not in unfinished:
            summary.skipped += 1
        else:
            todo.append((number, file))

    def predict(images: "Sequence[Pixels]") -> "list[tuple[Tensor, Tensor | None]]":
        return _predict(predictor, images, kinds)

    def finish(
        item: "tuple[int, InputImage]", image: "Pixels", predicted: "tuple[Tensor, Tensor | None]"
    ) -> dict[str, str]:
        classes, probabilities = predicted[0].cpu().numpy(), predicted[1]
        return write_prediction(
            out, item[1].name, kinds, image, classes, probabilities, predictor.class_set
        )

    results = stream(todo, read_input, predict, finish, predictor.device, options.batch)
    found = with_progress(results, len(todo), summary.failed, shown=group.is_main)
    with summary.note_if_interrupted(len(todo)):
        for number, file, written in found:
            summary.done += 1
            if options.as_json:
                summary.entries.append((number, {"image": file.path} | written))
    return summary


def _predict(
    predictor: "SegmentationPredictor", images: "Sequence[Pixels]", kinds: "Sequence[Kind]"
) -> "list[tuple[Tensor, Tensor | None]]":
    """Return class maps of images of one size, with probabilities if these are saved."""
    if "probabilities" in kinds:
        return [predictor.with_probabilities(image) for image in images]
    return [(classes, None) for classes in predictor.batch(images)]


def _pack(files: "Sequence[InputImage]", options: PredictOptions) -> None:
    """Write the submission from the index maps, and check it."""
    from drn_cli.cli.prepare.common import progress_bar
    from drn_cli.evaluation.submission import check_submission, frame_id, write_submission
    from drn_cli.inference.outputs import output_path

    assert options.submission is not None
    maps = {}
    for file in files:
        path, frame = output_path(options.out, "index", file.name), frame_id(file.path)
        if frame is None or not path.is_file():
            raise DrnError(
                f"{options.submission}: not written, {file.path} has no prediction",
                "--skip-existing predicts the missing ones",
            )
        maps[frame] = path
    with progress_bar("map") as progress:
        write_submission(options.submission, maps, progress)
    with progress_bar("map") as progress:
        found = check_submission(options.submission, maps, progress)
    for finding in found.findings:
        console.warn(finding.message)
    console.note(f"{options.submission}: {found.images} maps, {found.bytes / 1e6:.1f} MB")


def report(
    about: dict[str, Any],
    summaries: Sequence[PredictionSummary],
    seconds: float,
    options: PredictOptions,
    verb: str,
    where: str,
) -> None:
    """Print the results of all processes: JSON, or a line of text.

    Args:
        about: Fields about the network, for JSON.
        summaries: Results of each process.
        seconds: Duration of the prediction.
        options: Whether to print JSON.
        verb: What was done to the images, for the text.
        where: End of the text: the files written.
    """
    done = sum(summary.done for summary in summaries)
    skipped = sum(summary.skipped for summary in summaries)
    failed = merge_in_order(summary.failed for summary in summaries)
    if options.as_json:
        console.emit_json(
            {
                **about,
                "results": merge_in_order(summary.entries for summary in summaries),
                "skipped": skipped,
                "failed": failed,
                "seconds": round(seconds, 3),
                "images_per_second": round(done / seconds, 3),
            }
        )
    else:
        existing = f", {skipped} skipped (already exist)" if skipped else ""
        where = where if done or skipped else ""
        console.out.print(
            f"{count_images(done)} {verb}, {done / seconds:.1f} images/s{existing}{where}",
            soft_wrap=True,
        )
    if failed:
        console.note(f"{len(failed)} of {done + skipped + len(failed)} images failed")


def segment_one(
    path: str, network: "OpenedNetwork", inference: InferenceOptions, options: PredictOptions
) -> None:
    """Write the prediction of one image to stdout.

    Raises:
        DrnError: The image or the network cannot be used, or there are several images.
    """
    from drn_cli.distributed.group import join
    from drn_cli.inference.inputs import InputImage, find_images
    from drn_cli.inference.outputs import encode
    from drn_cli.inference.score_maps import name_in_errors

    (kind,) = options.save or ("colour",)
    files = [InputImage("-", "stdin")] if path == "-" else find_images([path])
    if len(files) > 1:
        raise DrnError(f"{path}: has {len(files)} images, but --out - writes one")
    with join() as group:
        predictor = inference.segmenter(network, group.device, concurrency=1)
        image = read_input((0, files[0]))
        with name_in_errors(display_name(files[0])):
            [(classes, probabilities)] = _predict(predictor, [image], [kind])
        content = encode(kind, image, classes.cpu().numpy(), probabilities, predictor.class_set)
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
