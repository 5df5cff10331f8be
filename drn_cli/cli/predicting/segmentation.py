"""Images labelled pixel by pixel, as files."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drn_cli.cli import console
from drn_cli.cli.images import in_order, name_of, read_input, results_of
from drn_cli.cli.predicting.record import provenance_of, recording, unfinished
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
    """What `drn predict` was asked to write.

    Attributes:
        out: Folder for the predictions, or `-`.
        save: Which files, if that was said.
        skip_existing: Whether to leave out what is written already.
        submission: Zip file for the Cityscapes server.
        partial: Whether it may lack images.
        batch: Images of one size that a GPU takes at once.
        as_json: Whether JSON is printed.
        force: Whether recorded maps of another network are deleted that would remain.
    """

    out: Path
    save: "tuple[Kind, ...] | None"
    skip_existing: bool
    submission: Path | None
    partial: bool
    batch: int | None
    as_json: bool
    force: bool = False

    @property
    def kinds(self) -> "tuple[Kind, ...]":
        """What is written for each image."""
        from drn_cli.inference.outputs import DEFAULT_KINDS

        kinds = self.save or DEFAULT_KINDS
        # A submission is packed from the index maps.
        return kinds if self.submission is None or "index" in kinds else ("index", *kinds)


@dataclass(slots=True)
class Tally:
    """What became of this process's images.

    Attributes:
        written, skipped: How many.
        failed: Number of each image without a result, with its entry for JSON.
        files: Number of each image that was written, with its entry; only for JSON.
    """

    written: int
    skipped: int
    failed: list[tuple[int, dict[str, Any]]]
    files: list[tuple[int, dict[str, str]]]


def label(
    inputs: Sequence[str],
    source: "Source",
    network: "OpenedNetwork",
    inference: InferenceOptions,
    options: PredictOptions,
) -> None:
    """Write the predictions of all images that the inputs name.

    Raises:
        DrnError: An input, the network or a setting cannot be used, or a file not be written.
        typer.Exit: An image could not be read, or its scores are not finite.
    """
    from drn_cli.distributed.group import join
    from drn_cli.inference.inputs import InputImage, find_images
    from drn_cli.inference.loading import load_predictor
    from drn_cli.inference.outputs import KINDS
    from drn_cli.inference.reading import default_concurrency

    outputs = [options.out / kind for kind in KINDS]
    stdin = list(inputs) == ["-"]
    files = [InputImage("-", "stdin")] if stdin else find_images(inputs, outputs)
    with join() as group:
        if options.submission is not None:
            _check_submission(network, files, options)
        if group.is_main:
            console.note(f"{source.checkpoint} on {len(files)} images")
        predictor = load_predictor(
            network,
            group.device,
            view=inference.view,
            concurrency=default_concurrency(group.device, len(files)),
            **inference.computing(group.device),
        )
        with ExitStack() as sharing:
            if group.is_main:
                assert predictor.normalization is not None
                view = {"scales": list(inference.view.scales), "flip": inference.view.flip}
                record = sharing.enter_context(
                    recording(
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
            tally = _label_share(files, predictor, options, group)
            seconds = time.perf_counter() - started
            tallies = group.gather_objects(tally)
            whole = not any(tally.failed for tally in tallies)
            if group.is_main:
                failed = [files[number].name for each in tallies for number, _ in each.failed]
                if kept := record.finish(failed):
                    console.warn(
                        f"{options.out}: failed images keep maps of another network or "
                        f"view, {len(kept):,}: {few_of(kept, 3)} (correct the images and predict "
                        "them again)"
                    )
            if group.is_main and options.submission is not None and whole:
                _pack(files, options)
        if group.is_main:
            _report(describe(source, network, predictor), tallies, seconds, options)
            if options.submission is not None and not whole:
                console.warn(f"{options.submission}: not written, some images have no prediction")
    console.exit_if_failed(not whole)


def _check_submission(
    network: "OpenedNetwork", files: "Sequence[InputImage]", options: PredictOptions
) -> None:
    from drn_cli.data.classes import cityscapes
    from drn_cli.evaluation.submission import check_inputs

    classes = network.classes
    if classes != len(cityscapes()):
        raise DrnError(
            f"{network.path}: has {classes} classes, the benchmark {len(cityscapes())} of its own"
        )
    check_inputs([file.path for file in files], partial=options.partial)


def _label_share(
    files: "Sequence[InputImage]",
    predictor: "SegmentationPredictor",
    options: PredictOptions,
    group: "Group",
) -> Tally:
    """Write the predictions of this process's share."""
    from drn_cli.inference.outputs import is_written, write_prediction
    from drn_cli.inference.stream import stream

    kinds, out = options.kinds, options.out
    tally = Tally(0, 0, [], [])
    todo = []
    doubtful = unfinished(out) if options.skip_existing else None
    for number, file in group.shard(list(enumerate(files))):
        name = file.name
        if doubtful is not None and is_written(out, name, kinds) and not doubtful(name):
            tally.skipped += 1
        else:
            todo.append((number, file))

    def answer(images: "Sequence[Pixels]") -> "list[tuple[Tensor, Tensor | None]]":
        return _answers(predictor, images, kinds)

    def finish(
        item: "tuple[int, InputImage]", image: "Pixels", answered: "tuple[Tensor, Tensor | None]"
    ) -> dict[str, str]:
        classes, probabilities = answered[0].cpu().numpy(), answered[1]
        return write_prediction(
            out, item[1].name, kinds, image, classes, probabilities, predictor.class_set
        )

    results = stream(todo, read_input, answer, finish, predictor.device, options.batch)
    found = results_of(results, len(todo), tally.failed, shown=group.is_main)
    for number, file, written in found:
        tally.written += 1
        if options.as_json:
            tally.files.append((number, {"image": file.path} | written))
    return tally


def _answers(
    predictor: "SegmentationPredictor", images: "Sequence[Pixels]", kinds: "Sequence[Kind]"
) -> "list[tuple[Tensor, Tensor | None]]":
    """Give the classes of images of one size, and their probabilities if they are to be kept."""
    if "probabilities" in kinds:
        return [predictor.with_probabilities(image) for image in images]
    return [(classes, None) for classes in predictor.batch(images)]


def _pack(files: "Sequence[InputImage]", options: PredictOptions) -> None:
    """Make the submission of what was predicted, and check it as anybody's."""
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
                "--skip-existing makes those that are missing",
            )
        maps[frame] = path
    with progress_bar("map") as progress:
        write_submission(options.submission, maps, progress)
    with progress_bar("map") as progress:
        found = check_submission(options.submission, maps, progress)
    for finding in found.findings:
        console.warn(finding.message)
    console.note(f"{options.submission}: {found.images} maps, {found.bytes / 1e6:.1f} MB")


def _report(
    about: dict[str, Any], tallies: Sequence[Tally], seconds: float, options: PredictOptions
) -> None:
    written = sum(tally.written for tally in tallies)
    skipped = sum(tally.skipped for tally in tallies)
    failed = in_order(tally.failed for tally in tallies)
    speed = written / seconds
    if options.as_json:
        console.emit_json(
            {
                **about,
                "results": in_order(tally.files for tally in tallies),
                "skipped": skipped,
                "failed": failed,
                "seconds": round(seconds, 3),
                "images_per_second": round(speed, 3),
            }
        )
    else:
        folders = ", ".join(str(options.out / kind) for kind in options.kinds)
        before = f", {skipped} were there already" if skipped else ""
        console.out.print(
            f"{written} images labelled, {speed:.1f} a second{before}: {folders}",
            soft_wrap=True,
        )
    if failed:
        total = written + skipped + len(failed)
        console.note(f"{len(failed)} of {total} images failed")


def label_one(
    path: str, network: "OpenedNetwork", inference: InferenceOptions, options: PredictOptions
) -> None:
    """Write what is wanted of one image to stdout.

    Raises:
        DrnError: The image or the network cannot be used, or there are several images.
    """
    from drn_cli.distributed.group import join
    from drn_cli.inference.inputs import InputImage, find_images
    from drn_cli.inference.loading import load_predictor
    from drn_cli.inference.outputs import encode
    from drn_cli.inference.score_maps import name_in_errors

    (kind,) = options.save or ("colour",)
    files = [InputImage("-", "stdin")] if path == "-" else find_images([path])
    if len(files) > 1:
        raise DrnError(f"{path}: has {len(files)} images; --out - takes one")
    with join() as group:
        predictor = load_predictor(
            network,
            group.device,
            view=inference.view,
            concurrency=1,
            **inference.computing(group.device),
        )
        image = read_input((0, files[0]))
        with name_in_errors(name_of(files[0])):
            [(classes, probabilities)] = _answers(predictor, [image], [kind])
        content = encode(kind, image, classes.cpu().numpy(), probabilities, predictor.class_set)
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
