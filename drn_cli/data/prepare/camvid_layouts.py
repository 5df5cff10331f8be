"""Find out which of the usual layouts a copy of CamVid has.

* SegNet: each line of `train.txt`, `val.txt` and `test.txt` names an image and its label; only the
  last two components of the paths are used.
* Split folders: `train/` beside `train_labels/` or a folder with a similar name, and so on.
* Cambridge: all images in `701_StillsRaw_full/`, all labels in `LabeledApproved_full/`, with the
  split of the SegNet copy.

In the last two, labels are named like their images, with an optional `_L` suffix.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drn_cli.data.classes import camvid_split
from drn_cli.data.file_search import SUBFOLDER, LeftOut, list_files
from drn_cli.data.prepare.common import SPLITS
from drn_cli.errors import DrnError, few_of
from drn_cli.files import read_text, require_folder

LABEL_FOLDERS = ("{}_labels", "{}annot", "{}_label", "{}_annot", "{}_masks", "{}_mask")
STILLS = ("701_StillsRaw_full", "701_StillsRaw")
APPROVED = ("LabeledApproved_full", "LabeledApproved")
COLOR_FILES = ("class_dict.csv", "label_colors.txt")


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its label, as paths relative to the source folder."""

    split: str
    image: str
    label: str | None


@dataclass(frozen=True, slots=True)
class CamVidLayout:
    """The files of a copy of CamVid."""

    name: str
    pairs: Sequence[Pair]  # all images of the three splits, in order
    lists: Sequence[Path]  # list files that define the splits
    colors: Path | None  # class file with the colors of the labels, if there is one


def find_layout(source: Path) -> CamVidLayout:
    """Find the layout of CamVid in a folder.

    Raises:
        DrnError: No known layout, or a file of the layout is missing.
    """
    require_folder(source, "CamVid")
    if any((source / f"{split}.txt").is_file() for split in SPLITS):
        return _segnet(source)
    if _label_folder(source, "train") and (source / "train").is_dir():
        return _split_folders(source)
    stills, approved = _first_folder(source, STILLS), _first_folder(source, APPROVED)
    if stills and approved:
        return _cambridge(source, stills, approved)
    known = [*(f"{split}.txt" for split in SPLITS), *LABEL_FOLDERS[:2], *STILLS]
    names = [name.format("train") for name in known]
    for folder in sorted(source.iterdir()):
        if folder.is_dir() and any((folder / name).exists() for name in names):
            raise DrnError(f"{source}: not a folder of CamVid", f"did you mean {folder}?")
    raise DrnError(
        f"{source}: no known layout of CamVid",
        "expected train.txt, val.txt and test.txt (SegNet), or train/ beside train_labels/ or "
        "trainannot/ (split folders), or 701_StillsRaw_full/ beside LabeledApproved_full/ "
        "(Cambridge)",
    )


def _segnet(source: Path) -> CamVidLayout:
    pairs = []
    lists = [source / f"{split}.txt" for split in SPLITS]
    for split, path in zip(SPLITS, lists, strict=True):
        if not path.is_file():
            raise DrnError(
                f"{path}: no such list",
                "the SegNet layout of CamVid has train.txt, val.txt and test.txt beside the "
                "folders train, trainannot, val, valannot, test and testannot",
            )
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if line.strip():
                pairs.append(_listed(source, split, line.split(), f"{path}:{number}"))
    return CamVidLayout("the SegNet layout", pairs, lists, _color_file(source, pairs))


def _listed(source: Path, split: str, words: list[str], where: str) -> Pair:
    if len(words) != 2:
        raise DrnError(f"{where}: expected two paths, image and label, found {len(words)}")
    image, label = ("/".join(PurePosixPath(word).parts[-2:]) for word in words)
    if ".." in f"{image}/{label}".split("/"):
        raise DrnError(f"{where}: path points outside the folder")
    if not (source / image).is_file():
        raise DrnError(f"{where}: {source / image} does not exist")
    if (source / label).is_file():
        return Pair(split, image, label)
    if split == "test":  # some copies have no test labels
        return Pair(split, image, None)
    raise DrnError(f"{where}: {source / label} does not exist")


def _split_folders(source: Path) -> CamVidLayout:
    pairs: list[Pair] = []
    for split in SPLITS:
        images, folder = _stems(source / split), _label_folder(source, split)
        if split != "test" and (not images or folder is None):
            wanted = source / (split if not images else f"{split}_labels")
            raise DrnError(f"{wanted}: no such folder, or no images in it")
        labels = _stems(folder) if folder else {}
        pairs += _pairs(source, images, labels, dict.fromkeys(images, split))
        # A label without an image is a sign that images are missing.
        if lone := [stem for stem in labels if stem.removesuffix("_L") not in images]:
            raise DrnError(f"{folder}: {few_of(lone, 3)} without an image in {source / split}")
    return CamVidLayout("split folders", pairs, [], _color_file(source, pairs))


def _cambridge(source: Path, stills: Path, approved: Path) -> CamVidLayout:
    images, splits = _stems(stills), camvid_split()
    missing = [stem for stem in splits if stem not in images]
    if missing:
        raise DrnError(
            f"{stills}: {len(missing)} of {len(splits)} images of CamVid are missing: "
            f"{few_of(missing, 3)}"
        )
    name = "the Cambridge release, with the split of the SegNet copy"
    if len(images) > len(splits):
        name += f"; images not in the split, left out: {len(images) - len(splits)}"
    pairs = _pairs(source, images, _stems(approved), splits)
    return CamVidLayout(name, pairs, [], _color_file(source, pairs))


def _pairs(
    source: Path, images: dict[str, Path], labels: dict[str, Path], splits: dict[str, str]
) -> list[Pair]:
    """Pair the images of the splits with their labels; test labels may be missing."""
    pairs, without = [], []
    for stem, split in splits.items():
        image, label = images[stem], labels.get(f"{stem}_L") or labels.get(stem)
        if label is None and split != "test":
            without.append(str(image))
        below = label.relative_to(source).as_posix() if label else None
        pairs.append(Pair(split, image.relative_to(source).as_posix(), below))
    if without:
        raise DrnError(f"{few_of(without, 3)}: no label", "labels are named X_L.png or X.png")
    return pairs


def _color_file(source: Path, pairs: Iterable[Pair]) -> Path | None:
    """Return the class file with colors in the source folder or in a folder of labels."""
    folders = {(source / pair.label).parent for pair in pairs if pair.label}
    candidates = [f / name for f in (source, *sorted(folders)) for name in COLOR_FILES]
    return next((path for path in candidates if path.is_file()), None)


def _label_folder(source: Path, split: str) -> Path | None:
    return _first_folder(source, [name.format(split) for name in LABEL_FOLDERS])


def _first_folder(source: Path, names: Iterable[str]) -> Path | None:
    return next((source / name for name in names if (source / name).is_dir()), None)


def _stems(folder: Path) -> dict[str, Path]:
    """Map the stems of the images in a folder to their paths, in order."""
    left_out = LeftOut()
    names = list_files(folder, left_out, below=SUBFOLDER)
    left_out.log(folder)
    return {Path(name).stem: folder / name for name in names}
