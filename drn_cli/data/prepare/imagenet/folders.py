"""List the images in unpacked folders of ImageNet, check them, and link them to class folders."""

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
from drn_cli.data.prepare.common import link_or_copy
from drn_cli.data.prepare.imagenet.images import (
    Advance,
    CorruptImage,
    SplitResult,
    file_error,
    is_complete,
    is_wnid,
)
from drn_cli.data.prepare.imagenet.truth import Truth, class_of
from drn_cli.files import atomic

THREADS = 4  # enough, because the work is bound by the disk


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file of the source and its class."""

    folder: Path
    name: str
    size: int
    mtime: int  # nanoseconds
    wnid: str

    @property
    def path(self) -> Path:
        return self.folder / self.name


def class_folders(folder: Path, left_out: LeftOut) -> Iterator[list[ImageFile]]:
    """Yield the images in `folder/WNID/`, one list per class, sorted by name.

    Dangling links are included and found to be corrupt by `link_images`. Other files that are
    skipped are added to `left_out`.

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


def flat_folder(folder: Path, truth: Truth, left_out: LeftOut) -> Iterator[list[ImageFile]]:
    """Yield the images in a flat folder as one list, like `class_folders`.

    Raises:
        DrnError: The class of an image is missing in the ground truth, or the folder cannot be
            read.
    """
    yield [
        _image(folder, entry, class_of(entry.name, truth, str(folder)))
        for entry in list_entries(folder, left_out, below=None, broken_too=True)
    ]


def _image(folder: Path, entry: os.DirEntry[str], wnid: str) -> ImageFile:
    try:
        stat = entry.stat()
    except OSError:
        return ImageFile(folder, entry.name, 0, 0, wnid)
    return ImageFile(folder, entry.name, stat.st_size, stat.st_mtime_ns, wnid)


def link_images(batches: Iterable[list[ImageFile]], out: Path, advance: Advance) -> SplitResult:
    """Create hard links to images, or else copies, in class folders; skip those that exist.

    Args:
        batches: Lists of images; the images of a list are processed in several threads.
        out: Folder of the class folders.
        advance: Called with the number of bytes of images done.

    Raises:
        DrnError: An image cannot be written.
    """
    done = images = 0
    corrupt = []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for batch in batches:
                for image, error in zip(batch, pool.map(partial(_link, out), batch), strict=True):
                    if error is None:
                        images += 1
                    else:
                        corrupt.append(CorruptImage(str(image.path), error))
                    done += image.size
                    advance(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return SplitResult(images, tuple(corrupt))


def _link(out: Path, image: ImageFile) -> str | None:
    """Link one image; return what is wrong with it, or None."""
    target = out / image.wnid / image.name
    if image.size and is_complete(target, image.size):
        return None
    error = file_error(image.path)
    if error is None:
        with atomic(target, durable=False) as temporary:
            temporary.unlink()  # a hard link needs an unused name
            link_or_copy(image.path, temporary)
    return error
