"""Find the images and labels of a copy of Cityscapes, in its folders or zip archives.

Images are `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, labels `gtFine/SPLIT/CITY/*_gtFine_*.png`.
The labels of the test images were never published: the files with these names are empty masks,
which are not used.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drn_cli.data.file_search import UNNAMED, LeftOut, search
from drn_cli.data.prepare.archives import Entry, list_entries
from drn_cli.data.prepare.common import SPLITS
from drn_cli.errors import DrnError
from drn_cli.files import require_folder

EXPECTED = {"train": 2975, "val": 500, "test": 1525}  # images of the release
IMAGES, LABELS = "leftImg8bit", "gtFine"
CONTENT = f"Cityscapes, with {IMAGES} and {LABELS}"

_NAME = r"[^/.][^/]*"  # not a hidden file
_IMAGE = re.compile(
    rf"{IMAGES}/(?P<split>train|val|test)/(?P<city>{_NAME})/(?P<stem>{_NAME})_leftImg8bit\.png"
)
_LABEL = re.compile(
    rf"{LABELS}/(train|val)/{_NAME}/{_NAME}_gtFine_(labelIds|labelTrainIds|trainIds)\.png"
)
_PATTERNS = {IMAGES: _IMAGE, LABELS: _LABEL}
# Files of the release in gtFine, and of its scripts: not reported as left out.
_RELEASED = re.compile(
    rf"(train|val|test)/{_NAME}/{_NAME}_gtFine_"
    r"((color|instanceIds|labelIds|\w*[tT]rainIds)\.png|polygons\.json)"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """An image and its label, as paths relative to the data folder."""

    split: str  # `train`, `val` or `test`
    city: str
    image: str
    label: str | None  # train ids of the image; None for a test image
    label_ids: str | None  # label ids to convert to `label`; None if the copy has train ids only


@dataclass(frozen=True, slots=True)
class CityscapesRoot:
    """The files of a copy of Cityscapes."""

    frames: list[Frame]  # images, sorted by path
    left_out: int  # number of train and val images left out because they have no label
    # Archive entries to unpack to `leftImg8bit` and `gtFine`, if a folder is missing
    packed: Mapping[str, list[Entry]]
    # Files in the two folders that are not part of the release
    other_files: Mapping[str, LeftOut] = field(compare=False)

    def cities(self) -> dict[str, dict[str, int]]:
        """Count the images of each city of each split."""
        found = Counter((frame.split, frame.city) for frame in self.frames)
        return {
            split: {city: n for (of, city), n in sorted(found.items()) if of == split}
            for split in SPLITS
        }


def find_root(root: Path, zips: Path | None, *, partial: bool) -> CityscapesRoot:
    """Find the files of Cityscapes without writing anything.

    A folder that exists is used; otherwise its archive is.

    Args:
        root: The data folder. With `zips`, it need not exist.
        zips: Folder of the archives, if they are not in the data folder.
        partial: Whether images and labels may be missing.

    Raises:
        DrnError: Another layout, a damaged or unsafe archive, or, unless `partial`, a missing
            label or another number of images than in the release.
    """
    if zips is None or root.exists():
        require_folder(root, CONTENT)
    if zips is not None:
        require_folder(zips, "zip archives")
    names: set[str] = set()
    packed = {}
    other_files = {}
    for top in (IMAGES, LABELS):
        archives = [folder / _zip_name(top) for folder in (root, zips) if folder is not None]
        if (root / top).is_dir():
            other_files[top] = LeftOut(lambda _, name: not _RELEASED.fullmatch(name))
            names |= _names(root, top, other_files[top])
        elif archive := next((path for path in archives if path.is_file()), None):
            packed[top] = _needed(archive, top)
            names |= {entry.name for entry in packed[top]}
        elif top == IMAGES or not partial:
            problem = f"{root}: contains no folder {top} and no {_zip_name(top)}"
            raise DrnError(problem, _hint(root, top))
    found = CityscapesRoot(*_frames(root, names, partial=partial), packed, other_files)
    if not found.frames:
        wanted = f"{IMAGES}/train/CITY/*_leftImg8bit.png, with labels in {LABELS}"
        raise DrnError(f"{root}: contains no images {wanted}", _hint(root, IMAGES))
    return found


def _names(root: Path, top: str, left_out: LeftOut) -> set[str]:
    names = set()
    for _, inner in search(root / top, left_out):
        if _PATTERNS[top].fullmatch(f"{top}/{inner}"):
            names.add(f"{top}/{inner}")
        else:
            left_out.add(UNNAMED, inner)
    left_out.log(root / top)
    return names


def _zip_name(top: str) -> str:
    return f"{top}_trainvaltest.zip"


def _needed(archive: Path, top: str) -> list[Entry]:
    """List the entries to unpack: no polygons, color and instance maps, or test labels.

    Train ids are converted again, because no official archive contains them.
    """
    entries = list_entries(archive)
    wanted = [
        entry
        for entry in entries
        if _PATTERNS[top].fullmatch(entry.name) and not entry.name.endswith("_gtFine_trainIds.png")
    ]
    if wanted:
        return wanted
    first = next((entry.name for entry in entries if entry.name.endswith(".png")), None)
    raise DrnError(
        f"{archive}: expected {top}/train/CITY/*.png, "
        + (f"but its first image is {first}" if first else "but it contains no images"),
        f"unpack it, and move {top} to the data folder",
    )


def _hint(root: Path, top: str) -> str:
    """Return what to do about missing images, after a look at likely other folders."""
    if root.resolve().name in (IMAGES, LABELS):
        return f"use the folder above: {root.resolve().parent}"
    for path in sorted(root.glob(f"*/{top}")):
        if (path / "train").is_dir():
            return f"found {path}: use {path.parent}, or move it"
    return (
        f"put the folders {IMAGES} and {LABELS} there, or {_zip_name(IMAGES)} and "
        f"{_zip_name(LABELS)} from cityscapes-dataset.com, or name their folder with --zips"
    )


def _frames(root: Path, names: Iterable[str], *, partial: bool) -> tuple[list[Frame], int]:
    """Pair images and labels, and count the images left out."""
    names = set(names)
    images = [found for name in sorted(names) if (found := _IMAGE.fullmatch(name))]
    counts = Counter(found["split"] for found in images)
    wrong = [
        f"{counts[split]} {split} images instead of {expected}"
        for split, expected in EXPECTED.items()
        if counts[split] != expected
    ]
    if wrong and images and not partial:
        raise DrnError(
            f"{root}: Cityscapes is incomplete: {', '.join(wrong)}",
            "use --partial for a part of the data set",
        )
    frames = []
    for found in images:
        split, city, stem = found.group("split", "city", "stem")
        label = label_ids = None
        if split != "test":
            label, label_ids = _label(f"{LABELS}/{split}/{city}/{stem}_gtFine_", names)
            if label is None and partial:
                continue
            if label is None:
                raise DrnError(
                    f"{root / found[0]}: label is missing, "
                    f"{LABELS}/{split}/{city}/{stem}_gtFine_labelIds.png",
                    "use --partial to leave out images without a label",
                )
        frames.append(Frame(split, city, found[0], label, label_ids))
    return frames, len(images) - len(frames)


def _label(start: str, names: set[str]) -> tuple[str | None, str | None]:
    """Return the train ids of an image, and the label ids from which to make them, if any."""
    ids, ours, official = (
        f"{start}{kind}.png" for kind in ("labelIds", "trainIds", "labelTrainIds")
    )
    if official in names and ours not in names:
        return official, None
    if ids in names:
        return ours, ids
    return (ours if ours in names else None), None
