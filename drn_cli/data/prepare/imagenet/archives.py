"""Extract the images of ImageNet from its tar archives to class folders.

An archive is read once from start to end, without unpacking the 1000 archives in that of the
training set first. Images that already exist are skipped, so an interrupted run is resumed.
"""

import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from drn_cli.data.prepare.imagenet.images import (
    LARGEST,
    Advance,
    CorruptImage,
    SplitResult,
    image_error,
    is_complete,
    is_image,
)
from drn_cli.data.prepare.imagenet.tar import (
    CorruptArchiveError,
    members,
    open_inner,
    open_tar,
    read_member,
)
from drn_cli.data.prepare.imagenet.truth import Truth, class_of
from drn_cli.files import atomic

CLASS_ARCHIVE = re.compile(r"(n\d{8})\.tar")


def extract_train(path: Path, out: Path, advance: Advance) -> SplitResult:
    """Extract the training images from an archive with one archive for each class.

    Args:
        path: `ILSVRC2012_img_train.tar`, which contains `n01440764.tar` and so on.
        out: Folder of the class folders.
        advance: Called with the number of bytes done.

    Raises:
        DrnError: An archive is truncated, contains links or paths that point outside, or an image
            cannot be written.
    """
    images, corrupt = 0, []
    with open_tar(str(path), path) as outer:
        for member in members(outer, str(path)):
            match = CLASS_ARCHIVE.fullmatch(PurePosixPath(member.name).name)
            if match is None:
                corrupt.append(CorruptImage(member.name, "not the archive of a class"))
                continue
            where = f"{path}: {member.name}"
            with open_inner(outer, member, where) as inner:
                found = members(inner, where, member.offset_data + member.size)
                result = _extract(inner, found, where, (out / match[1]).joinpath, advance)
            images += result.images
            corrupt += [CorruptImage(f"{member.name}/{c.name}", c.error) for c in result.corrupt]
    return SplitResult(images, tuple(corrupt))


def first_classes(path: Path, count: int) -> frozenset[str]:
    """Return the first classes of a training archive; fewer if the archive has fewer intact."""
    found: set[str] = set()
    with suppress(CorruptArchiveError), open_tar(str(path), path) as outer:
        for member in members(outer, str(path)):
            if match := CLASS_ARCHIVE.fullmatch(PurePosixPath(member.name).name):
                found.add(match[1])
            if len(found) == count:
                break
    return frozenset(found)


def extract_val(path: Path, out: Path, truth: Truth, advance: Advance) -> SplitResult:
    """Extract the validation images from `ILSVRC2012_img_val.tar`, which has no class folders.

    Args:
        path: The archive.
        out: Folder of the class folders.
        truth: Class (WNID) of each image, by its name without suffix.
        advance: Called with the number of bytes done.

    Raises:
        DrnError: As for `extract_train`, or an image is missing in the ground truth.
    """

    def target_of(name: str) -> Path:
        return out / class_of(name, truth, str(path)) / name

    with open_tar(str(path), path) as archive:
        return _extract(archive, members(archive, str(path)), str(path), target_of, advance)


def _extract(
    archive: tarfile.TarFile,
    found: Iterator[tarfile.TarInfo],
    where: str,
    target_of: Callable[[str], Path],
    advance: Advance,
) -> SplitResult:
    """Write the images of an archive to the paths that `target_of` returns for their names."""
    names: set[str] = set()
    corrupt = []
    for member in found:
        name = PurePosixPath(member.name).name
        error = None
        if not is_image(name):
            error = "no image suffix"
        elif name in names:
            error = "duplicate image name"
        elif member.size > LARGEST:
            error = "too large for an image"
        elif not is_complete(target := target_of(name), member.size) or not member.size:
            data = read_member(archive, member, where)
            error = image_error(data)
            if error is None:
                with atomic(target, durable=False) as temporary:
                    temporary.write_bytes(data)
        if error is None:
            names.add(name)
        else:
            corrupt.append(CorruptImage(member.name, error))
        advance(member.offset_data + member.size)
    return SplitResult(len(names), tuple(corrupt))
