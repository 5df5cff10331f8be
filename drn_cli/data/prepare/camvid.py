"""CamVid in the SegNet layout, made into a data folder.

The layout: `train/ trainannot/ val/ valannot/ test/ testannot/`, with `train.txt`, `val.txt` and
`test.txt` naming a picture and its label on each line; only the last two parts of their paths mean
anything. Labels hold 0 to 10 for the classes and 11 for void, which becomes 255.
"""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED, camvid
from drn_cli.data.images import read_image, read_label, write_index
from drn_cli.data.prepare.common import (
    Moments,
    Prepared,
    Progress,
    fingerprint,
    in_parallel,
    write_info,
    write_list,
)
from drn_cli.errors import DrnError
from drn_cli.files import atomic_folder, read_json

SPLITS = ("train", "val", "test")
VOID = 11


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and its label, as paths below the source and below the data folder alike."""

    split: str
    image: str
    label: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What reading a pair told: sums over the picture, and pixels of each class (void last)."""

    moments: Moments
    pixels: npt.NDArray[np.int64]


def prepare_camvid(source: Path, out: Path, progress: Progress | None = None) -> Prepared:
    """Make a data folder from CamVid, with all cores.

    The source is only read. A folder that was made from the same files is left as it is; a
    failure leaves nothing behind.

    Args:
        source: Folder of the SegNet layout. Test labels may be missing.
        out: The data folder to make.
        progress: Called with pictures done and pictures in all.

    Raises:
        DrnError: Another layout, a missing or broken file, a label value above 11, a label of
            another size than its picture, or `out` holds something else.
    """
    pairs = _pairs(source)
    counts = {split: sum(pair.split == split for pair in pairs) for split in SPLITS}
    lists = [source / f"{split}.txt" for split in SPLITS]
    files = [source / path for pair in pairs for path in (pair.image, pair.label) if path]
    made_from = fingerprint(source, [*lists, *files])
    if (out / "info.json").is_file():
        info = read_json(out / "info.json")
        if isinstance(info, dict) and info.get("made_from") == made_from:
            return Prepared(out, counts, unchanged=True)
        raise DrnError(
            f"{out}: holds another data set, or one made from other files",
            "remove it or choose another folder with --out",
        )
    with atomic_folder(out) as folder:
        for pair in pairs:
            for path in (pair.image, pair.label):
                if path:
                    (folder / path).parent.mkdir(exist_ok=True)
        seen = list(in_parallel(partial(_convert, source, folder), pairs, progress))
        training = [part for pair, part in zip(pairs, seen, strict=True) if pair.split == "train"]
        pixels = np.sum([part.pixels for part in training], axis=0)
        for split in SPLITS:
            chosen = [pair for pair in pairs if pair.split == split]
            write_list(folder, f"{split}_images.txt", [pair.image for pair in chosen])
            labels = [pair.label for pair in chosen if pair.label]
            if len(labels) == len(chosen):
                write_list(folder, f"{split}_labels.txt", labels)
        write_info(
            folder,
            Moments.total(part.moments for part in training).statistics(),
            camvid(),
            dataset="camvid",
            training_pixels=pixels[:VOID].tolist(),
            training_pixels_void=int(pixels[VOID]),
            made_from=made_from,
        )
    return Prepared(out, counts, unchanged=False)


def _pairs(source: Path) -> list[Pair]:
    if not source.is_dir():
        raise DrnError(f"{source}: no such folder")
    pairs = []
    for split in SPLITS:
        path = source / f"{split}.txt"
        if not path.is_file():
            raise DrnError(
                f"{path}: no such list",
                "the SegNet layout of CamVid has train.txt, val.txt and test.txt beside the "
                "folders train, trainannot, val, valannot, test and testannot",
            )
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DrnError(f"{path}: cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                pairs.append(_pair(source, split, line.split(), f"{path}:{number}"))
    return pairs


def _pair(source: Path, split: str, words: list[str], where: str) -> Pair:
    if len(words) != 2:
        raise DrnError(f"{where}: should name a picture and its label, has {len(words)} words")
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


def _convert(source: Path, folder: Path, pair: Pair) -> Seen:
    """Copy a picture, write its label with void as 255, and sum both up."""
    image = read_image(source / pair.image)
    shutil.copyfile(source / pair.image, folder / pair.image)
    pixels = np.zeros(VOID + 1, np.int64)
    if pair.label is not None:
        path = source / pair.label
        label = read_label(path)
        if label.shape != image.shape[:2]:
            raise DrnError(
                f"{path}: is {label.shape[1]}x{label.shape[0]}, "
                f"its picture {image.shape[1]}x{image.shape[0]}"
            )
        if label.max() > VOID:
            raise DrnError(f"{path}: has the value {label.max()}; CamVid's labels are 0 to {VOID}")
        pixels = np.bincount(label.ravel(), minlength=VOID + 1)
        write_index(folder / pair.label, np.where(label == VOID, np.uint8(IGNORED), label))
    return Seen(Moments.of(image), pixels)
