"""The layout of Cityscapes: which images and labels a copy has, in folders or still in the zips.

`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` are the images, `gtFine/SPLIT/CITY/*_gtFine_*.png` the
labels. Those of the test images were never published: files of that name hold nothing and are
not looked at.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drn_cli.data.file_search import UNNAMED, LeftOut, search
from drn_cli.data.prepare.archives import Entry, list_entries
from drn_cli.errors import DrnError
from drn_cli.files import require_folder

SPLITS = ("train", "val", "test")
EXPECTED = {"train": 2975, "val": 500, "test": 1525}  # images of the release
IMAGES, LABELS = "leftImg8bit", "gtFine"
CONTENT = f"Cityscapes, with {IMAGES} and {LABELS}"

_NAME = r"[^/.][^/]*"  # of no hidden file: some systems leave those everywhere
_IMAGE = re.compile(
    rf"{IMAGES}/(?P<split>train|val|test)/(?P<city>{_NAME})/(?P<stem>{_NAME})_leftImg8bit\.png"
)
_LABEL = re.compile(
    rf"{LABELS}/(train|val)/{_NAME}/{_NAME}_gtFine_(labelIds|labelTrainIds|trainIds)\.png"
)
_PATTERNS = {IMAGES: _IMAGE, LABELS: _LABEL}
# Files of the release below gtFine, and those that its scripts make, of which no use is made.
_OTHERS = re.compile(
    rf"(train|val|test)/{_NAME}/{_NAME}_gtFine_"
    r"((color|instanceIds|labelIds|\w*[tT]rainIds)\.png|polygons\.json)"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """An image and its label, as paths below the data folder.

    Attributes:
        split: `train`, `val` or `test`.
        city: Folder that it is in.
        image: The image.
        label: Its train ids; none for a test image.
        label_ids: The label ids that `label` is made from, unless it came with the data.
    """

    split: str
    city: str
    image: str
    label: str | None
    label_ids: str | None


@dataclass(frozen=True, slots=True)
class CityscapesRoot:
    """What somebody has of Cityscapes.

    Attributes:
        frames: Images in the order of their paths.
        left_out: Number of train and val images that are left out for want of a label.
        packed: `leftImg8bit` and `gtFine`, as far as they are to be unpacked, and from what.
        passed_over: What lies in the two folders and is no file of the release.
    """

    frames: list[Frame]
    left_out: int
    packed: Mapping[str, list[Entry]]
    passed_over: Mapping[str, LeftOut] = field(compare=False)

    def cities(self) -> dict[str, dict[str, int]]:
        """Count the images of each city of each split."""
        found = Counter((frame.split, frame.city) for frame in self.frames)
        return {
            split: {city: n for (of, city), n in sorted(found.items()) if of == split}
            for split in SPLITS
        }


def find_copy(root: Path, zips: Path | None, *, partial: bool) -> CityscapesRoot:
    """See what there is; nothing is written.

    A folder that exists is taken as it is; for one that does not, its archive is looked for.

    Args:
        root: The data folder. With `zips`, it need not exist.
        zips: Where to look for archives, besides the data folder.
        partial: Whether images and labels may be missing.

    Raises:
        DrnError: Another layout, a broken or unsafe archive, or, unless that may be, a missing
            label or another number of images than the release has.
    """
    if zips is None or root.exists():
        require_folder(root, CONTENT)
    if zips is not None:
        require_folder(zips, "zip archives")
    names: set[str] = set()
    packed = {}
    passed_over = {}
    for top in (IMAGES, LABELS):
        if (root / top).is_dir():
            passed_over[top] = LeftOut(lambda _, name: not _OTHERS.fullmatch(name))
            names |= _names(root, top, passed_over[top])
        elif archive := _archive(top, root, zips):
            packed[top] = _of_use(archive, top)
            names |= {entry.name for entry in packed[top]}
        elif top == IMAGES or not partial:
            raise DrnError(f"{root}: has no folder {top} and no {_zip_name(top)}", _hint(root, top))
    copy = CityscapesRoot(*_frames(root, names, partial=partial), packed, passed_over)
    if not copy.frames:
        wanted = f"{IMAGES}/train/CITY/*_leftImg8bit.png, with labels in {LABELS}"
        raise DrnError(f"{root}: has no images {wanted}", _hint(root, IMAGES))
    return copy


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


def _archive(top: str, *places: Path | None) -> Path | None:
    paths = [place / _zip_name(top) for place in places if place is not None]
    return next((path for path in paths if path.is_file()), None)


def _of_use(archive: Path, top: str) -> list[Entry]:
    """Choose what is needed: no polygons, colours, instances or labels of test images.

    Train ids, which no official archive holds, are made anew.
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
        f"{archive}: should hold {top}/train/CITY/*.png, "
        + (f"its first image is {first}" if first else "it has no images"),
        f"unpack it yourself so that {top} lies in the data folder",
    )


def _hint(root: Path, top: str) -> str:
    """Say what to do, with what is seen where people put the folders by mistake."""
    if root.resolve().name in (IMAGES, LABELS):
        return f"give the folder that {root.resolve().name} is in: {root.resolve().parent}"
    for path in sorted(root.glob(f"*/{top}")):
        if (path / "train").is_dir():
            return f"there is {path}: move it, or give {path.parent}"
    return (
        f"put the folders {IMAGES} and {LABELS} there, or {_zip_name(IMAGES)} and "
        f"{_zip_name(LABELS)} from cityscapes-dataset.com, or name their folder with --zips"
    )


def _frames(root: Path, names: Iterable[str], *, partial: bool) -> tuple[list[Frame], int]:
    """Put images and labels together, and count the images that have to be left out."""
    names = set(names)
    images = [found for name in sorted(names) if (found := _IMAGE.fullmatch(name))]
    if not partial and images:
        _check_counts(root, Counter(found["split"] for found in images))
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
                    f"{root / found[0]}: its label is missing, "
                    f"{LABELS}/{split}/{city}/{stem}_gtFine_labelIds.png",
                    "with --partial, images without a label are left out",
                )
        frames.append(Frame(split, city, found[0], label, label_ids))
    return frames, len(images) - len(frames)


def _label(start: str, names: set[str]) -> tuple[str | None, str | None]:
    """Choose the train ids of an image, and the label ids that they have to be made from."""
    ids, ours, official = (
        f"{start}{kind}.png" for kind in ("labelIds", "trainIds", "labelTrainIds")
    )
    if official in names and ours not in names:
        return official, None
    if ids in names:
        return ours, ids
    return (ours if ours in names else None), None


def _check_counts(root: Path, found: Mapping[str, int]) -> None:
    wrong = [
        f"{found.get(split, 0)} {split} images instead of {expected}"
        for split, expected in EXPECTED.items()
        if found.get(split, 0) != expected
    ]
    if wrong:
        raise DrnError(
            f"{root}: is not all of Cityscapes: {', '.join(wrong)}",
            "--partial takes what there is",
        )
