"""The layouts in which people have CamVid, told apart by looking.

* SegNet: `train.txt`, `val.txt` and `test.txt`, which name an image and its label on each line;
  only the last two parts of their paths mean anything.
* Split folders: `train/` beside `train_labels/` or a folder of a like name, and so on.
* Cambridge: all images in `701_StillsRaw_full/`, all labels in `LabeledApproved_full/`, split as
  the lists of the SegNet copy split them.

In the last two a label is named as its image, with or without `_L` at the end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drn_cli.data.classes import camvid_split
from drn_cli.data.file_search import SUBFOLDER, LeftOut, list_files
from drn_cli.data.prepare.placing import SPLITS
from drn_cli.errors import DrnError, few_of
from drn_cli.files import read_text, require_folder

LABEL_FOLDERS = ("{}_labels", "{}annot", "{}_label", "{}_annot", "{}_masks", "{}_mask")
STILLS = ("701_StillsRaw_full", "701_StillsRaw")
APPROVED = ("LabeledApproved_full", "LabeledApproved")
COLOUR_FILES = ("class_dict.csv", "label_colors.txt")


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its label, as paths below the source."""

    split: str
    image: str
    label: str | None


@dataclass(frozen=True, slots=True)
class CamVidLayout:
    """CamVid as it was found.

    Attributes:
        name: What to call the layout.
        pairs: All images of the three splits, in order.
        lists: Files that decide about splits.
        colours: A file that names the colours of the labels, where there is one.
    """

    name: str
    pairs: Sequence[Pair]
    lists: Sequence[Path]
    colours: Path | None


def find_layout(source: Path) -> CamVidLayout:
    """Tell by its files and folders how CamVid lies in a folder.

    Raises:
        DrnError: None of the layouts, or a file that belongs to the one found is missing.
    """
    require_folder(source, "CamVid")
    if any((source / f"{split}.txt").is_file() for split in SPLITS):
        return _segnet(source)
    if _label_folder(source, "train") and (source / "train").is_dir():
        return _split_folders(source)
    stills, approved = _first_folder(source, STILLS), _first_folder(source, APPROVED)
    if stills and approved:
        return _cambridge(source, stills, approved)
    raise _none_of_them(source)


def _none_of_them(source: Path) -> DrnError:
    wanted = [*(f"{split}.txt" for split in SPLITS), *LABEL_FOLDERS[:2], *STILLS]
    signs = [name.format("train") for name in wanted]
    inside = [
        folder
        for folder in sorted(source.iterdir())
        if folder.is_dir() and any((folder / sign).exists() for sign in signs)
    ]
    if inside:
        return DrnError(f"{source}: is not CamVid itself", f"is it {inside[0]}?")
    return DrnError(
        f"{source}: holds CamVid in none of the layouts that are known",
        "looked for train.txt, val.txt and test.txt (SegNet), for train/ beside train_labels/ or "
        "trainannot/ (split folders), and for 701_StillsRaw_full/ beside LabeledApproved_full/ "
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
    return CamVidLayout("the SegNet layout", pairs, lists, _colour_file(source, pairs))


def _listed(source: Path, split: str, words: list[str], where: str) -> Pair:
    if len(words) != 2:
        raise DrnError(f"{where}: should name an image and its label, has {len(words)} words")
    image, label = ("/".join(PurePosixPath(word).parts[-2:]) for word in words)
    if ".." in f"{image}/{label}".split("/"):
        raise DrnError(f"{where}: a path should not lead out of its folder")
    if not (source / image).is_file():
        raise DrnError(f"{where}: {source / image} does not exist")
    if (source / label).is_file():
        return Pair(split, image, label)
    if split == "test":  # held back in some copies
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
        pairs += _joined(source, images, labels, dict.fromkeys(images, split))
        # A label without its image tells that images are missing.
        strangers = [stem for stem in labels if stem.removesuffix("_L") not in images]
        if strangers:
            raise DrnError(f"{folder}: {few_of(strangers, 3)} without an image in {source / split}")
    return CamVidLayout("split folders", pairs, [], _colour_file(source, pairs))


def _cambridge(source: Path, stills: Path, approved: Path) -> CamVidLayout:
    images, splits = _stems(stills), camvid_split()
    missing = [stem for stem in splits if stem not in images]
    if missing:
        raise DrnError(
            f"{stills}: lacks {len(missing)} of the {len(splits)} images of CamVid: "
            f"{few_of(missing, 3)}"
        )
    name = "the Cambridge release, with the split of the SegNet copy"
    if len(images) > len(splits):
        name += f"; images left out because they are not in it: {len(images) - len(splits)}"
    pairs = _joined(source, images, _stems(approved), splits)
    return CamVidLayout(name, pairs, [], _colour_file(source, pairs))


def _joined(
    source: Path, images: dict[str, Path], labels: dict[str, Path], splits: dict[str, str]
) -> list[Pair]:
    """Give each image of a split its label; those of test may be missing."""
    pairs, without = [], []
    for stem, split in splits.items():
        image, label = images[stem], labels.get(f"{stem}_L") or labels.get(stem)
        if label is None and split != "test":
            without.append(str(image))
        below = label.relative_to(source).as_posix() if label else None
        pairs.append(Pair(split, image.relative_to(source).as_posix(), below))
    if without:
        raise DrnError(f"{few_of(without, 3)} without a label, which is named X_L.png or X.png")
    return pairs


def _colour_file(source: Path, pairs: Iterable[Pair]) -> Path | None:
    """Find the file that names the colours, beside the folders of the labels or in one."""
    folders = {(source / pair.label).parent for pair in pairs if pair.label}
    places = [source, *sorted(folders)]
    found = [place / name for place in places for name in COLOUR_FILES]
    return next((path for path in found if path.is_file()), None)


def _label_folder(source: Path, split: str) -> Path | None:
    return _first_folder(source, [name.format(split) for name in LABEL_FOLDERS])


def _first_folder(source: Path, names: Iterable[str]) -> Path | None:
    return next((source / name for name in names if (source / name).is_dir()), None)


def _stems(folder: Path) -> dict[str, Path]:
    """List the images in a folder by their names without endings, in order."""
    left_out = LeftOut()
    names = list_files(folder, left_out, below=SUBFOLDER)
    left_out.log(folder)
    return {Path(name).stem: folder / name for name in names}
