"""Images of ImageNet from folders that are unpacked already: listed, checked and placed."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drn_cli.data.file_search import (
    NO_CLASS,
    OUTSIDE,
    SUBFOLDER,
    LeftOut,
    list_entries,
    list_files,
    list_folders,
)
from drn_cli.data.prepare.common import place
from drn_cli.data.prepare.imagenet.images import (
    Advance,
    Corrupt,
    Taken,
    file_fault,
    is_there,
    is_wnid,
)
from drn_cli.data.prepare.imagenet.truth import Truth, class_of
from drn_cli.files import atomic

THREADS = 4  # the work is waiting for the disk


@dataclass(frozen=True, slots=True)
class Image:
    """An image file of the source, and the class it belongs to."""

    folder: Path
    name: str
    size: int
    changed: int  # nanoseconds
    wnid: str

    @property
    def path(self) -> Path:
        return self.folder / self.name


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is to take: what tells it apart from anything else, and its classes."""

    fingerprint: str
    images: int
    size: int  # bytes
    classes: frozenset[str]


def class_folders(folder: Path, left_out: LeftOut) -> Iterator[list[Image]]:
    """Yield the images of `folder/WNID/`, one list a class, in the order of their names.

    A broken link is listed, and found broken when it is placed. `left_out` collects what is
    passed over.

    Raises:
        DrnError: A folder cannot be read.
    """
    for name in list_files(folder, LeftOut(), below=SUBFOLDER):
        left_out.add(OUTSIDE, f"{folder.name}/{name}")
    for wnid in list_folders(folder):
        below = folder / wnid
        if not is_wnid(wnid):
            left_out.add(NO_CLASS, f"{folder.name}/{wnid}")
            continue
        found = list_entries(below, left_out, below=SUBFOLDER, broken_too=True)
        yield [_image(below, entry, wnid) for entry in found]


def flat_folder(folder: Path, truth: Truth, left_out: LeftOut) -> Iterator[list[Image]]:
    """Yield the images of a flat folder as one list, as `class_folders` does.

    Raises:
        DrnError: The truth does not name an image's class, or the folder cannot be read.
    """
    yield [
        _image(folder, entry, class_of(entry.name, truth, str(folder)))
        for entry in list_entries(folder, left_out, below=None, broken_too=True)
    ]


def _image(folder: Path, entry: os.DirEntry[str], wnid: str) -> Image:
    try:
        stat = entry.stat()
    except OSError:
        return Image(folder, entry.name, 0, 0, wnid)
    return Image(folder, entry.name, stat.st_size, stat.st_mtime_ns, wnid)


def list_images(batches: Iterable[list[Image]]) -> Listing:
    """Sum up images; names, sizes and times of change decide the fingerprint."""
    digest, images, size = hashlib.sha256(), 0, 0
    classes: set[str] = set()
    for batch in batches:
        for image in batch:
            line = f"{image.wnid}/{image.name}\0{image.size}\0{image.changed}\n"
            digest.update(line.encode(errors="surrogateescape"))
            size += image.size
        images += len(batch)
        classes.update(image.wnid for image in batch)
    return Listing(digest.hexdigest(), images, size, frozenset(classes))


def place_images(batches: Iterable[list[Image]], out: Path, advance: Advance) -> Taken:
    """Put images into the folders of their classes: hard links, or else copies.

    Those that are there already stay as they are.

    Args:
        batches: Lists of images; each is worked on by several threads.
        out: Gets a folder for each class.
        advance: Told how many bytes of images are done.

    Raises:
        DrnError: An image cannot be written.
    """
    done = images = 0
    corrupt = []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for batch in batches:
                for image, wrong in zip(batch, pool.map(partial(_place, out), batch), strict=True):
                    if wrong is None:
                        images += 1
                    else:
                        corrupt.append(Corrupt(str(image.path), wrong))
                    done += image.size
                    advance(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Taken(images, tuple(corrupt))


def _place(out: Path, image: Image) -> str | None:
    """Place one image, or tell what is wrong with it."""
    target = out / image.wnid / image.name
    if image.size and is_there(target, image.size):
        return None
    wrong = file_fault(image.path)
    if wrong is None:
        with atomic(target, durable=False) as temporary:
            temporary.unlink()  # a hard link needs a name that is free
            place(image.path, temporary)
    return wrong
