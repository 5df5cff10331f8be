"""The splits of ImageNet in a source, and fingerprints of everything a data folder is made from."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from drn_cli.data.file_search import LeftOut
from drn_cli.data.prepare.common import fingerprint
from drn_cli.data.prepare.imagenet.archives import extract_train, extract_val, first_classes
from drn_cli.data.prepare.imagenet.boxes import box_files
from drn_cli.data.prepare.imagenet.folders import ImageFile, class_folders, flat_folder, link_images
from drn_cli.data.prepare.imagenet.images import Advance, SplitResult
from drn_cli.data.prepare.imagenet.names import names_file
from drn_cli.data.prepare.imagenet.sources import OF_IMAGENET, ImageNetSources
from drn_cli.data.prepare.imagenet.truth import Truth


@dataclass(frozen=True, slots=True)
class SplitSource:
    """Source of a split, an archive or a folder."""

    made_from: str  # fingerprint of the source
    size: int  # bytes to read
    images: int | None  # number of images, if it is known without reading an archive
    classes: frozenset[str]  # WNIDs of the images; of an archive, at least two
    write: Callable[[Path, Advance], SplitResult]  # writes the images to class folders in a folder
    # Files in the folders of the source that are not images of the split
    left_out: LeftOut = field(default_factory=LeftOut)


def split_sources(sources: ImageNetSources, truth: Truth) -> dict[str, SplitSource]:
    """Return the source of each split that is available."""
    found = {}
    if (train := sources.train) and train.is_file():
        extract = partial(extract_train, train)
        found["train"] = _archive(train, {}, first_classes(train, 2), extract)
    elif train:
        found["train"] = _folder(train, partial(class_folders, train))
    val = sources.val
    if val and not sources.flat:
        found["val"] = _folder(val, partial(class_folders, val))
    elif val and val.is_file():
        found["val"] = _archive(
            val,
            truth,
            frozenset(truth.values()),
            lambda out, advance: extract_val(val, out, truth, advance),
        )
    elif val:
        found["val"] = _folder(val, partial(flat_folder, val, truth))
    return found


def _archive(
    path: Path, truth: Truth, classes: frozenset[str], write: Callable[[Path, Advance], SplitResult]
) -> SplitSource:
    # The content of the ground truth, not its file: several files contain the same ground truth.
    lines = "".join(f"{name} {wnid}\n" for name, wnid in sorted(truth.items()))
    digest = hashlib.sha256(f"{fingerprint(path.parent, [path])}\n{lines}".encode()).hexdigest()
    return SplitSource(digest, path.stat().st_size, None, classes, write)


def _folder(folder: Path, batches: Callable[[LeftOut], Iterator[list[ImageFile]]]) -> SplitSource:
    # More than a million files: they are listed twice instead of being kept in memory.
    left_out = LeftOut(lambda _, name: not OF_IMAGENET.fullmatch(name))
    digest, images, size = hashlib.sha256(), 0, 0
    classes: set[str] = set()
    for image in chain.from_iterable(batches(left_out)):
        line = f"{image.wnid}/{image.name}\0{image.size}\0{image.mtime}\n"
        digest.update(line.encode(errors="surrogateescape"))
        images += 1
        size += image.size
        classes.add(image.wnid)
    left_out.log(folder)
    return SplitSource(
        digest.hexdigest(),
        size,
        images,
        frozenset(classes),
        lambda out, advance: link_images(batches(LeftOut()), out, advance),
        left_out,
    )


def extra_fingerprints(sources: ImageNetSources) -> dict[str, str]:
    """Return fingerprints of the files of boxes and names, if there are any."""
    names = names_file(sources)
    files = {"boxes": box_files(sources), "names": [names] if names else []}
    return {
        extra: hashlib.sha256(
            "".join(fingerprint(path.parent, [path]) for path in paths).encode()
        ).hexdigest()
        for extra, paths in files.items()
        if paths
    }
