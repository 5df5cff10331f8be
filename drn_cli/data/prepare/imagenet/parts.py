"""The parts of ImageNet that a source gives: what each is made from, and how it is made."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from drn_cli.data.file_search import LeftOut
from drn_cli.data.prepare.common import fingerprint
from drn_cli.data.prepare.imagenet.archives import extract_train, extract_val, first_classes
from drn_cli.data.prepare.imagenet.boxes import box_files
from drn_cli.data.prepare.imagenet.folders import (
    Image,
    class_folders,
    flat_folder,
    list_images,
    place_images,
)
from drn_cli.data.prepare.imagenet.images import Advance, Taken
from drn_cli.data.prepare.imagenet.names import names_file
from drn_cli.data.prepare.imagenet.sources import OF_IMAGENET, Sources
from drn_cli.data.prepare.imagenet.truth import Truth


@dataclass(frozen=True, slots=True)
class Part:
    """A split that is to be made.

    Attributes:
        made_from: Tells its source apart from others.
        size: Bytes to go through.
        images: How many it has, if that is known before.
        classes: Of its images; of an archive, a few of them.
        take: Does it, in a folder, and tells how far it is.
        left_out: What lies in its folders and is not taken.
    """

    made_from: str
    size: int
    images: int | None
    classes: frozenset[str]
    take: Callable[[Path, Advance], Taken]
    left_out: LeftOut = field(default_factory=LeftOut)


def split_parts(sources: Sources, truth: Truth) -> Iterator[tuple[str, Part]]:
    """Tell how to make each split that the source has."""
    if sources.train is not None and sources.train.is_file():
        yield (
            "train",
            _archive(
                sources.train,
                {},
                first_classes(sources.train, 2),
                partial(extract_train, sources.train),
            ),
        )
    elif sources.train is not None:
        yield "train", _folder(sources.train, partial(class_folders, sources.train))
    if sources.val is None:
        return
    if not sources.flat:
        yield "val", _folder(sources.val, partial(class_folders, sources.val))
        return
    if sources.val.is_file():
        path = sources.val
        yield (
            "val",
            _archive(
                path,
                truth,
                frozenset(truth.values()),
                lambda out, done: extract_val(path, out, truth, done),
            ),
        )
    else:
        yield "val", _folder(sources.val, partial(flat_folder, sources.val, truth))


def _archive(
    path: Path, truth: Truth, classes: frozenset[str], take: Callable[[Path, Advance], Taken]
) -> Part:
    # What the truth says counts, not its file: the same is to be had from several.
    says = "".join(f"{name} {wnid}\n" for name, wnid in sorted(truth.items()))
    mark = hashlib.sha256(f"{fingerprint(path.parent, [path])}\n{says}".encode()).hexdigest()
    return Part(mark, path.stat().st_size, None, classes, take)


def _folder(folder: Path, batches: Callable[[LeftOut], Iterator[list[Image]]]) -> Part:
    # The files are listed twice rather than held: there are more than a million.
    left_out = LeftOut(lambda _, name: not OF_IMAGENET.fullmatch(name))
    listing = list_images(batches(left_out))
    left_out.log(folder)
    return Part(
        listing.fingerprint,
        listing.size,
        listing.images,
        listing.classes,
        lambda out, advance: place_images(batches(LeftOut()), out, advance),
        left_out,
    )


def _fingerprints(files: list[Path]) -> str:
    """Tell files of any folders apart from others; no files give no words."""
    each = [fingerprint(path.parent, [path]) for path in files]
    return hashlib.sha256("".join(each).encode()).hexdigest() if each else ""


def extra_parts(sources: Sources) -> dict[str, str]:
    """Give fingerprints for what is quickly made again: the boxes and the names."""
    names = names_file(sources)
    made = {
        "boxes": _fingerprints(box_files(sources)),
        "names": _fingerprints([names] if names else []),
    }
    return {extra: mark for extra, mark in made.items() if mark}
