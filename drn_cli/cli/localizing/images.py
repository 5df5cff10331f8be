"""Write heat maps and boxes of images."""

from collections.abc import Sequence
from difflib import get_close_matches
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drn_cli.cli import console
from drn_cli.cli.images import merge_in_order, read_input, with_progress
from drn_cli.cli.localizing.evaluation import LocalizeOptions, class_numbers, format_threshold
from drn_cli.cli.source import InferenceOptions, describe
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from drn_cli.data.images import Pixels
    from drn_cli.inference.activation import ClassActivationMap
    from drn_cli.inference.classifier import ClassificationPredictor
    from drn_cli.inference.inputs import InputImage
    from drn_cli.inference.source import Source

ENDINGS = {"heatmap": ".png", "array": ".npz"}  # by subfolder of the output folder
SHOWN = 40  # boxes; a table of more is not printed


def find_boxes(
    inputs: Sequence[str],
    out: Path,
    save: Sequence[str],
    names: Sequence[str],
    top_k: int,
    source: "Source",
    inference: InferenceOptions,
    options: LocalizeOptions,
) -> None:
    """Write heat maps and arrays of images, and print the boxes of their classes.

    Args:
        inputs: Images, folders or globs.
        out: Folder for the files.
        save: `heatmap`, `array`, or both.
        names: Classes to localize; without any, the most probable ones of each image.
        top_k: Number of the most probable classes.
        source: The classifier.
        inference: Options of inference.
        options: Options of the command.

    Raises:
        DrnError: An input, the network or a class cannot be used, or a file cannot be written.
        typer.Exit: An image cannot be read, or its scores are not finite.
    """
    from drn_cli.distributed.group import join
    from drn_cli.inference.activation import class_activation_map
    from drn_cli.inference.inputs import find_images
    from drn_cli.inference.stream import stream

    files = find_images(inputs, [out / kind for kind in ENDINGS])
    with join() as group:
        network = inference.open(source, "classification")
        classifier = inference.classifier(network, group.device, **options.crops(source))
        numbers = class_numbers(classifier)
        if unknown := [name for name in names if name not in numbers]:
            close = get_close_matches(unknown[0], numbers, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else None
            raise DrnError(f"--class {unknown[0]}: unknown class", hint)
        classes = [numbers[name] for name in names]

        def predict(images: "Sequence[Pixels]") -> "list[ClassActivationMap]":
            return [
                class_activation_map(classifier, image, options.see, options.of) for image in images
            ]

        def finish(
            item: "tuple[int, InputImage]", image: "Pixels", found: "ClassActivationMap"
        ) -> dict[str, Any]:
            shown = classes or found.topk(top_k)
            return _write(item[1], image, found, shown, classifier, out, save, options)

        entries: list[tuple[int, dict[str, Any]]] = []
        failures: list[tuple[int, dict[str, Any]]] = []
        mine = group.shard(list(enumerate(files)))
        results = stream(mine, read_input, predict, finish, group.device)
        for number, file, result in with_progress(
            results, len(mine), failures, shown=group.is_main
        ):
            entries.append((number, {"image": file.path} | result))
        found, failed = (merge_in_order(group.gather_objects(part)) for part in (entries, failures))
        if group.is_main:
            about = describe(source, network, classifier)
            _report(found, failed, about, out, save, options)
    console.exit_if_failed(failed)


def _write(
    file: "InputImage",
    image: "Pixels",
    found: "ClassActivationMap",
    classes: Sequence[int],
    classifier: "ClassificationPredictor",
    out: Path,
    save: Sequence[str],
    options: LocalizeOptions,
) -> dict[str, Any]:
    """Write the files of an image; return them and its boxes as JSON fields."""
    from drn_cli.data.images import encode_png
    from drn_cli.files import atomic
    from drn_cli.inference.heat_maps import encode_npz, heat_map_overlay
    from drn_cli.inference.outputs import refuse_symlinks

    boxes = found.boxes(classes, options.thresholds)
    contents: dict[Path, bytes] = {}
    for place, kind in enumerate(classes):
        if "heatmap" in save:
            name = file.name if len(classes) == 1 else f"{file.name}_{place + 1}"
            drawn = heat_map_overlay(image, found, kind, boxes[place, 0])
            contents[out / "heatmap" / f"{name}{ENDINGS['heatmap']}"] = encode_png(drawn)
    if "array" in save:
        content = encode_npz(found, classes, classifier.names, boxes, options.thresholds)
        contents[out / "array" / f"{file.name}{ENDINGS['array']}"] = content
    for path, content in contents.items():
        refuse_symlinks(out, path)
        with atomic(path, durable=False) as temporary:
            temporary.write_bytes(content)
    found_boxes = [  # xmin, ymin, xmax, ymax; None for no box
        [None if isnan(box[0]) else [round(number, 2) for number in box] for box in of_class]
        for of_class in boxes.tolist()
    ]
    limits = [None if limit == float("-inf") else limit for limit in options.thresholds]
    return {
        "files": [str(path) for path in contents],
        "classes": [
            {
                "class": classifier.names[kind],
                "probability": float(found.probabilities[kind]),
                "boxes": [
                    {"threshold": limit, "box": corners}
                    for limit, corners in zip(limits, found_boxes[place], strict=True)
                ],
            }
            for place, kind in enumerate(classes)
        ],
    }


def _report(
    found: Sequence[dict[str, Any]],
    failed: Sequence[dict[str, Any]],
    about: dict[str, Any],
    out: Path,
    save: Sequence[str],
    options: LocalizeOptions,
) -> None:
    from drn_cli.files import write_csv

    rows = [
        (entry["image"], one["class"], one["probability"], at["threshold"], at["box"])
        for entry in found
        for one in entry["classes"]
        for at in one["boxes"]
    ]
    if options.csv is not None:
        write_csv(
            options.csv,
            ("image", "class", "probability", "threshold", "xmin", "ymin", "xmax", "ymax"),
            (
                (image, name, f"{share:.6f}", format_threshold(limit), *(box or [""] * 4))
                for image, name, share, limit, box in rows
            ),
        )
        console.note(f"written: {options.csv}")
    if options.as_json:
        document = {**about, "of": options.of, "view": options.see}
        console.emit_json(document | {"results": list(found), "failed": list(failed)})
    else:
        if 0 < len(rows) <= SHOWN:
            numbers = ("probability", "threshold")
            table = console.table("image", "class", *numbers, "box", right=numbers, fold=True)
            for image, name, share, limit, box in rows:
                corners = "none" if box is None else " ".join(f"{number:.0f}" for number in box)
                table.add_row(image, name, f"{100 * share:.1f} %", format_threshold(limit), corners)
            console.out.print(table)
        folders = ", ".join(str(out / kind) for kind in save)
        images = "1 image" if len(found) == 1 else f"{len(found)} images"
        where = f": {folders}" if found else ""
        console.out.print(f"{images} localized{where}", soft_wrap=True)
    if failed:
        console.note(f"{len(failed)} of {len(found) + len(failed)} images failed")
