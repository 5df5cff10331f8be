"""Cityscapes made into a data folder where it lies: train ids, the five lists and info.json.

Train ids go beside the labels as `*_gtFine_trainIds.png`; `*_gtFine_labelTrainIds.png`, which the
official scripts write, are taken as they are.
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
from drn_cli.data.prepare.cityscapes_layout import CONTENT, SPLITS, Frame, find_copy
from drn_cli.data.prepare.common import (
    PrepareResult,
    check_occurring,
    claimed,
    count_pixels,
    fingerprint,
    require_two_classes,
    write_info,
)
from drn_cli.errors import DrnError, refused_by_system
from drn_cli.files import read_json, require_folder, write_text

OTHER_LABELS = "choose the folder of Cityscapes; labels of your own: drn data prepare pairs"

Label = tuple[str, str, npt.NDArray[np.int64]]  # split, path, and int64 (256,), pixels of each id
Task = tuple[Frame, bool]  # an image to check, and whether its train ids have to be made


@dataclass(frozen=True, slots=True)
class PreparedCityscapes(PrepareResult):
    """What there is of Cityscapes, and whether anything was left to do.

    Attributes:
        cities: Images in each city of each split.
        left_out: Number of train and val images without a label, which no list names.
        passed_over: What lies in the folders of images and labels and is no file of the release.
    """

    cities: Mapping[str, Mapping[str, int]]
    left_out: int
    passed_over: Mapping[str, LeftOut]


def prepare_cityscapes(
    root: Path,
    *,
    zips: Path | None = None,
    lists: Path | None = None,
    partial: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> PreparedCityscapes:
    """Make a data folder of Cityscapes, in its place and with all cores.

    No file of the release is changed. What an interrupted run has finished is kept, and a second
    run does nothing. Mean and standard deviation are the published ones.

    Args:
        root: The folder with `leftImg8bit` and `gtFine`, or the two official zips, which are then
            unpacked there.
        zips: Where else to look for the zips.
        lists: Folder for the lists and info.json; the data folder itself if there is no other.
        partial: Take a part of Cityscapes, and leave images without a label out.
        force: Replace lists and info.json that this function did not write.
        progress: Called with files done and files in all.

    Raises:
        DrnError: What `find_copy` and `unpack` refuse, a broken image or label, a label of
            another size than its image, other lists in the way, or no place to write.
    """
    if zips is None:
        require_folder(root, CONTENT)
    elsewhere = lists is not None and lists.resolve() != root.resolve()
    with claimed(root), claimed(lists) if lists and elsewhere else nullcontext():
        copy = find_copy(root, zips, partial=partial)
        folder = root if lists is None else lists
        wanted = _lists(copy.frames)
        if not force:
            _refuse_others(folder, wanted)
        packed = sum(map(len, copy.packed.values()))
        steps, done = packed + len(copy.frames), 0
        for top, entries in copy.packed.items():
            unpack(entries, root / top, _from(progress, done, steps))
            done += len(entries)

        sources = [(frame.image, frame.label_ids or frame.label) for frame in copy.frames]
        made_from = fingerprint(root, [root / path for pair in sources for path in pair if path])
        tasks = [(frame, not _is_made(root, frame)) for frame in copy.frames]
        if known := _made_from(folder) == made_from:  # checked when the lists were written
            tasks = [task for task in tasks if task[1]]
        labels = _convert_all(root, tasks, _from(progress, done, done + len(tasks)), known=known)

        changed = _write_lists(folder, wanted, made_from, labels)
        cities = copy.cities()
        return PreparedCityscapes(
            root,
            {split: sum(cities[split].values()) for split in SPLITS},
            unchanged=not (packed or any(convert for _, convert in tasks) or changed),
            cities=cities,
            left_out=copy.left_out,
            passed_over=copy.passed_over,
        )


def _from(progress: Progress | None, start: int, total: int) -> Progress | None:
    """Count a part of the work as a part of the whole."""
    return None if progress is None else lambda done, _: progress(start + done, total)


def _is_made(root: Path, frame: Frame) -> bool:
    """Tell whether train ids are there, whole, and no older than what they are made from."""
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
    """Check all pairs, then write what is missing, and return what the labels hold.

    Whether there are two classes at all was checked before if they are `known`.
    """
    if not tasks:
        return []
    made = [root / frame.label for frame, convert in tasks if convert and frame.label]
    for folder in {path.parent for path in made}:
        if not os.access(folder, os.W_OK):
            raise DrnError(
                f"{root}: cannot be written, and the train ids of {len(made)} labels belong there, "
                f"in {folder} for instance",
                f"make it writable, or a copy of links: cp -rs {root.resolve()} COPY",
            )
        for half in folder.glob(".*_gtFine_trainIds.png.*.tmp"):  # of a run that was killed
            half.unlink(missing_ok=True)
    work = functools.partial(_convert, root)
    # Those of which nothing is written come first: what they show is known before anything is.
    ready = [task for task in tasks if not task[1]]
    seen = dict(zip(ready, in_parallel(work, ready, _from(progress, 0, len(tasks))), strict=True))
    missing = [task for task in tasks if task[1]]
    if not known:
        _require_classes(root, [pixels for pixels in seen.values() if pixels is not None], missing)
    count = _from(progress, len(ready), len(tasks))
    seen |= zip(missing, in_parallel(work, missing, count), strict=True)
    return [
        (task[0].split, task[0].label, pixels)
        for task in tasks
        if task[0].label and (pixels := seen[task]) is not None
    ]


def _require_classes(
    root: Path, counted: Sequence[npt.NDArray[np.int64]], missing: Sequence[Task]
) -> None:
    """Refuse labels of fewer than two classes; of those to be converted few have to be read."""
    shown = np.sum(counted, axis=0) if counted else np.zeros(256, np.int64)
    sources = [root / frame.label_ids for frame, _ in missing if frame.label_ids]
    for path in sources:
        if np.count_nonzero(shown[: len(cityscapes())]) > 1:
            return
        shown += np.bincount(cityscapes_train_ids().take(read_label(path)).ravel(), minlength=256)
    if counted or sources:
        names = zip(cityscapes().names, shown[: len(cityscapes())], strict=True)
        require_two_classes([name for name, count in names if count], "the labels", OTHER_LABELS)


def _convert(root: Path, task: Task) -> npt.NDArray[np.int64] | None:
    """Check an image against its label, write the train ids where they are missing, and count."""
    frame, needed = task
    image = root / frame.image
    size = png_size(image)
    if frame.label is None:
        return None
    source = root / ((frame.label_ids if needed else None) or frame.label)
    label = read_label(source)
    found = (label.shape[1], label.shape[0])
    if found != size:
        raise size_error(source, found, image, size)
    if needed:
        label = cityscapes_train_ids().take(label)
    pixels = np.bincount(label.ravel(), minlength=256)
    outside = np.flatnonzero(pixels[len(cityscapes()) : IGNORED])
    if outside.size:
        value = len(cityscapes()) + int(outside[0])
        raise DrnError(
            f"{source}: has the value {value} ({pixels[value]:,} px); train ids are 0 to "
            f"{len(cityscapes()) - 1}, or {IGNORED} for void",
            "remove it if its *_gtFine_labelIds.png is there: it is made again",
        )
    if needed:
        write_png(root / frame.label, label)
    return pixels


def png_size(path: Path) -> tuple[int, int]:
    """Read the width and height of a PNG and see that it has an end, without decoding it.

    Raises:
        DrnError: The file is missing, cut short, or no PNG.
    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
            file.seek(-12, os.SEEK_END)
            end = file.read()
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such file") from error
    except OSError as error:
        if refused_by_system(error):  # and the file is not just shorter than its end would be
            raise DrnError(f"{path}: cannot be read: {error.strerror}") from error
        head = end = b""
    if head[:8] + head[12:16] != PNG_MAGIC + b"IHDR" or not end.endswith(PNG_END):
        raise DrnError(f"{path}: broken image: not a whole PNG file")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _lists(frames: Sequence[Frame]) -> dict[str, str | None]:
    """Give the text of each list, and None for one that should not be there."""
    texts: dict[str, str | None] = {}
    for split in SPLITS:
        chosen = [frame for frame in frames if frame.split == split]
        texts[f"{split}_images.txt"] = "".join(f"{frame.image}\n" for frame in chosen) or None
        if split != "test":
            texts[f"{split}_labels.txt"] = "".join(f"{frame.label}\n" for frame in chosen) or None
    return texts


def _made_from(folder: Path) -> str | None:
    """Read from info.json what the lists were made from, if this command made them."""
    try:
        info: Any = read_json(folder / "info.json")
    except DrnError:
        return None
    ours = isinstance(info, dict) and info.get("dataset") == "cityscapes"
    return str(info["made_from"]) if ours and "made_from" in info else None


def _differs(path: Path, text: str | None) -> bool:
    """Tell whether a list is another than it should be; without a text it should not exist."""
    if not path.is_file():
        return text is not None
    return text is None or path.read_bytes() != text.encode()


def _refuse_others(folder: Path, wanted: Mapping[str, str | None]) -> None:
    """Keep lists and info.json that somebody else wrote, unless they say the same."""
    if _made_from(folder) is not None:
        return
    others = [name for name, text in wanted.items() if _differs(folder / name, text)]
    for path in [folder / "info.json", *(folder / name for name in others)]:
        if path.is_file():
            raise DrnError(
                f"{path}: was not written by this command",
                "--force replaces the lists and info.json, --lists DIR writes them elsewhere",
            )


def _write_lists(
    folder: Path, wanted: Mapping[str, str | None], made_from: str, labels: Sequence[Label]
) -> bool:
    """Write what differs, info.json first: it says whose the lists are. Tell if anything did."""
    lists = {folder / name: text for name, text in wanted.items()}
    lists = {path: text for path, text in lists.items() if _differs(path, text)}
    known = _made_from(folder) == made_from
    if known and not lists:
        return False
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise DrnError(f"{folder}: cannot be written", "--lists DIR writes the lists elsewhere")
    if not known:
        if labels:
            check_occurring(
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
