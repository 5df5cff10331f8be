"""Add train ids, the five list files and info.json to a folder of Cityscapes.

Train ids are saved beside the labels as `*_gtFine_trainIds.png`. Files
`*_gtFine_labelTrainIds.png` of the official scripts are used where they exist.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED, cityscapes, cityscapes_train_ids
from drn_cli.data.file_ends import PNG_END, PNG_MAGIC
from drn_cli.data.file_search import LeftOut
from drn_cli.data.folders import CITYSCAPES
from drn_cli.data.images import read_label, write_png
from drn_cli.data.orientation import size_error
from drn_cli.data.parallel import Progress, in_parallel
from drn_cli.data.prepare.archives import unpack
from drn_cli.data.prepare.cityscapes_layout import CONTENT, Frame, find_root
from drn_cli.data.prepare.common import (
    SPLITS,
    PrepareResult,
    check_classes_occur,
    count_pixels,
    fingerprint,
    locked_folder,
    require_two_classes,
    write_info,
)
from drn_cli.errors import DrnError, refused_by_system
from drn_cli.files import read_json, require_folder, write_text

OTHER_LABELS = "choose the folder of Cityscapes; for your own labels use drn data prepare pairs"

Label = tuple[str, str, npt.NDArray[np.int64]]  # split, path, pixel count of each id (256,)
Task = tuple[Frame, bool]  # an image to check, and whether to convert its label ids to train ids


@dataclass(frozen=True, slots=True)
class PreparedCityscapes(PrepareResult):
    """Result of the preparation of Cityscapes."""

    cities: Mapping[str, Mapping[str, int]]  # number of images of each city in each split
    left_out: int  # number of train and val images left out of the lists because they have no label
    # Files in `leftImg8bit` and `gtFine` that are not part of the release
    other_files: Mapping[str, LeftOut]


def prepare_cityscapes(
    root: Path,
    *,
    zips: Path | None = None,
    lists: Path | None = None,
    partial: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> PreparedCityscapes:
    """Turn a folder of Cityscapes into a data folder on all cores.

    No file of the release is changed. An interrupted run is resumed by the next one, and a second
    run does nothing. Mean and standard deviation are the published ones.

    Args:
        root: The folder with `leftImg8bit` and `gtFine`, or with the two official zip archives,
            which are then unpacked there.
        zips: Another folder with the archives.
        lists: Folder for the lists and info.json; None uses `root`.
        partial: Allow an incomplete copy, and leave out images without a label.
        force: Replace lists and info.json that this function did not write.
        progress: Called with the number of files done and their total.

    Raises:
        DrnError: Errors of `find_root` and `unpack`, a broken image or label, a label of another
            size than its image, existing lists of other origin, or a folder that is not writable.
    """
    if zips is None:
        require_folder(root, CONTENT)
    elsewhere = lists is not None and lists.resolve() != root.resolve()
    with locked_folder(root), locked_folder(lists) if lists and elsewhere else nullcontext():
        found = find_root(root, zips, partial=partial)
        folder = root if lists is None else lists
        wanted = _lists(found.frames)
        if not force:
            _check_overwrite(folder, wanted)
        packed = sum(map(len, found.packed.values()))
        steps, done = packed + len(found.frames), 0
        for top, entries in found.packed.items():
            unpack(entries, root / top, _offset(progress, done, steps))
            done += len(entries)

        sources = [(frame.image, frame.label_ids or frame.label) for frame in found.frames]
        made_from = fingerprint(root, [root / path for pair in sources for path in pair if path])
        tasks = [(frame, not _is_converted(root, frame)) for frame in found.frames]
        if known := _made_from(folder) == made_from:  # checked when the lists were written
            tasks = [task for task in tasks if task[1]]
        labels = _convert_all(root, tasks, _offset(progress, done, done + len(tasks)), known=known)

        changed = _write_lists(folder, wanted, made_from, labels)
        cities = found.cities()
        return PreparedCityscapes(
            root,
            {split: sum(cities[split].values()) for split in SPLITS},
            unchanged=not (packed or any(convert for _, convert in tasks) or changed),
            cities=cities,
            left_out=found.left_out,
            other_files=found.other_files,
        )


def _offset(progress: Progress | None, start: int, total: int) -> Progress | None:
    """Report the progress of a part of the work as progress of the whole."""
    return None if progress is None else lambda done, _: progress(start + done, total)


def _is_converted(root: Path, frame: Frame) -> bool:
    """Return whether train ids exist, are complete, and not older than the label ids."""
    if frame.label is None or frame.label_ids is None:
        return True
    label, source = root / frame.label, root / frame.label_ids
    try:
        newer = label.stat().st_mtime_ns >= source.stat().st_mtime_ns
        return newer and png_size(label) == png_size(source)
    except (OSError, DrnError):
        return False


def _convert_all(
    root: Path, tasks: Sequence[Task], progress: Progress | None, *, known: bool
) -> list[Label]:
    """Check all pairs, write missing train ids, and return the pixel counts of all labels.

    If the result is `known`, at least two classes are known to occur, and this is not checked.
    """
    if not tasks:
        return []
    targets = [root / frame.label for frame, convert in tasks if convert and frame.label]
    for folder in {path.parent for path in targets}:
        if not os.access(folder, os.W_OK):
            raise DrnError(
                f"{root}: not writable, but the train ids of {len(targets)} labels belong there, "
                f"for example in {folder}",
                f"make it writable, or use a copy of links: cp -rs {root.resolve()} COPY",
            )
        for leftover in folder.glob(".*_gtFine_trainIds.png.*.tmp"):  # of a killed run
            leftover.unlink(missing_ok=True)
    convert_one = functools.partial(_convert, root)
    # Labels that need no conversion first, so that the check for two classes precedes any writing.
    ready = [task for task in tasks if not task[1]]
    progress_of_ready = _offset(progress, 0, len(tasks))
    pixels_of = dict(zip(ready, in_parallel(convert_one, ready, progress_of_ready), strict=True))
    missing = [task for task in tasks if task[1]]
    if not known:
        counted = [pixels for pixels in pixels_of.values() if pixels is not None]
        _require_classes(root, counted, missing)
    progress_of_missing = _offset(progress, len(ready), len(tasks))
    pixels_of |= zip(missing, in_parallel(convert_one, missing, progress_of_missing), strict=True)
    return [
        (task[0].split, task[0].label, pixels)
        for task in tasks
        if task[0].label and (pixels := pixels_of[task]) is not None
    ]


def _require_classes(
    root: Path, counted: Sequence[npt.NDArray[np.int64]], missing: Sequence[Task]
) -> None:
    """Raise DrnError if fewer than two classes occur; read labels to convert until two do."""
    pixels = np.sum(counted, axis=0) if counted else np.zeros(256, np.int64)
    sources = [root / frame.label_ids for frame, _ in missing if frame.label_ids]
    for path in sources:
        if np.count_nonzero(pixels[: len(cityscapes())]) > 1:
            return
        pixels += np.bincount(cityscapes_train_ids().take(read_label(path)).ravel(), minlength=256)
    if counted or sources:
        names = zip(cityscapes().names, pixels[: len(cityscapes())], strict=True)
        require_two_classes([name for name, count in names if count], "the labels", OTHER_LABELS)


def _convert(root: Path, task: Task) -> npt.NDArray[np.int64] | None:
    """Check an image and its label, write missing train ids, and return their pixel counts."""
    frame, convert = task
    image = root / frame.image
    size = png_size(image)
    if frame.label is None:
        return None
    source = root / ((frame.label_ids if convert else None) or frame.label)
    label = read_label(source)
    label_size = (label.shape[1], label.shape[0])
    if label_size != size:
        raise size_error(source, label_size, image, size)
    if convert:
        label = cityscapes_train_ids().take(label)
    pixels = np.bincount(label.ravel(), minlength=256)
    outside = np.flatnonzero(pixels[len(cityscapes()) : IGNORED])
    if outside.size:
        value = len(cityscapes()) + int(outside[0])
        raise DrnError(
            f"{source}: contains the value {value} ({pixels[value]:,} px); train ids are 0 to "
            f"{len(cityscapes()) - 1}, or {IGNORED} for void",
            "if *_gtFine_labelIds.png exists, remove this file: the next run creates it again",
        )
    if convert:
        write_png(root / frame.label, label)
    return pixels


def png_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a PNG, and check that it has an end, without decoding it.

    Raises:
        DrnError: The file is missing, truncated, or not a PNG.
    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
            file.seek(-12, os.SEEK_END)
            end = file.read()
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such file") from error
    except OSError as error:
        if refused_by_system(error):  # seeking in a file shorter than 12 bytes also fails
            raise DrnError(f"{path}: cannot be read: {error.strerror}") from error
        head = end = b""
    if head[:8] + head[12:16] != PNG_MAGIC + b"IHDR" or not end.endswith(PNG_END):
        raise DrnError(f"{path}: broken image: truncated, or not a PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _lists(frames: Sequence[Frame]) -> dict[str, str | None]:
    """Return the text of each list file; None for a list that should not exist."""
    texts: dict[str, str | None] = {}
    for split in SPLITS:
        chosen = [frame for frame in frames if frame.split == split]
        texts[f"{split}_images.txt"] = "".join(f"{frame.image}\n" for frame in chosen) or None
        if split != "test":
            texts[f"{split}_labels.txt"] = "".join(f"{frame.label}\n" for frame in chosen) or None
    return texts


def _made_from(folder: Path) -> str | None:
    """Return `made_from` of info.json; None if this command did not write it."""
    try:
        info: Any = read_json(folder / "info.json")
    except DrnError:
        return None
    ours = isinstance(info, dict) and info.get("dataset") == "cityscapes"
    return str(info["made_from"]) if ours and "made_from" in info else None


def _differs(path: Path, text: str | None) -> bool:
    """Return whether a list file has another content; a list without a text should not exist."""
    if not path.is_file():
        return text is not None
    return text is None or path.read_bytes() != text.encode()


def _check_overwrite(folder: Path, wanted: Mapping[str, str | None]) -> None:
    """Raise DrnError for an info.json of other origin, and for other lists with other content."""
    if _made_from(folder) is not None:
        return
    others = [name for name, text in wanted.items() if _differs(folder / name, text)]
    for path in [folder / "info.json", *(folder / name for name in others)]:
        if path.is_file():
            raise DrnError(
                f"{path}: was not written by this command",
                "use --force to replace the lists and info.json, or --lists DIR to write them "
                "elsewhere",
            )


def _write_lists(
    folder: Path, wanted: Mapping[str, str | None], made_from: str, labels: Sequence[Label]
) -> bool:
    """Write info.json and the lists that differ; return whether any did.

    info.json comes first, because it marks the lists as written by this command.
    """
    lists = {folder / name: text for name, text in wanted.items()}
    lists = {path: text for path, text in lists.items() if _differs(path, text)}
    known = _made_from(folder) == made_from
    if known and not lists:
        return False
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise DrnError(f"{folder}: not writable", "use --lists DIR to write the lists elsewhere")
    if not known:
        if labels:
            check_classes_occur(
                cityscapes().names,
                np.sum([pixels for *_, pixels in labels], axis=0)[: len(cityscapes())].tolist(),
                OTHER_LABELS,
            )
        write_info(
            folder,
            CITYSCAPES,
            cityscapes(),
            class_pixels=count_pixels(labels, len(cityscapes())),
            dataset="cityscapes",
            made_from=made_from,
        )
    for path, text in lists.items():
        if text is None:
            path.unlink()
        else:
            write_text(path, text)
    return True
