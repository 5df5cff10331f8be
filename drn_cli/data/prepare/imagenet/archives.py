"""Images of ImageNet straight from its tar archives, each written to the folder of its class.

An archive is read once, from its start to its end, and never unpacked as a whole: the thousand
archives inside the one of the training set are read where they are. Images that are there
already are stepped over, so that an interrupted run goes on where it was.
"""

import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from drn_cli.data.prepare.imagenet.images import (
    LARGEST,
    Advance,
    Corrupt,
    Taken,
    fault,
    is_image,
    is_there,
    write_image,
)
from drn_cli.data.prepare.imagenet.tar import DamagedError, content, inside, members, opened
from drn_cli.data.prepare.imagenet.truth import Truth, class_of

CLASS_ARCHIVE = re.compile(r"(n\d{8})\.tar")


def extract_train(path: Path, out: Path, advance: Advance) -> Taken:
    """Take the training images from an archive of archives, one a class.

    Args:
        path: `ILSVRC2012_img_train.tar`, which holds `n01440764.tar` and the like.
        out: Gets a folder for each class.
        advance: Told how far it is.

    Raises:
        DrnError: An archive breaks off, holds links or paths that lead out of it, or an image
            cannot be written.
    """
    images, corrupt = 0, []
    with opened(str(path), path) as outer:
        for member in members(outer, str(path)):
            named = CLASS_ARCHIVE.fullmatch(PurePosixPath(member.name).name)
            if named is None:
                corrupt.append(Corrupt(member.name, "not the archive of a class"))
                continue
            where = f"{path}: {member.name}"
            with inside(outer, member, where) as inner:
                found = members(inner, where, member.offset_data + member.size)
                taken = _extract(inner, found, where, (out / named[1]).joinpath, advance)
            images += taken.images
            corrupt += [Corrupt(f"{member.name}/{each.name}", each.fault) for each in taken.corrupt]
    return Taken(images, tuple(corrupt))


def first_classes(path: Path, count: int) -> frozenset[str]:
    """Return the first classes of a training archive; fewer if it ends or breaks off before."""
    found: set[str] = set()
    with suppress(DamagedError), opened(str(path), path) as outer:
        for member in members(outer, str(path)):
            if named := CLASS_ARCHIVE.fullmatch(PurePosixPath(member.name).name):
                found.add(named[1])
            if len(found) == count:
                break
    return frozenset(found)


def extract_val(path: Path, out: Path, truth: Truth, advance: Advance) -> Taken:
    """Take the validation images from their archive into the folders of their classes.

    Args:
        path: `ILSVRC2012_img_val.tar`, which is flat.
        out: Gets a folder for each class.
        truth: The class (WNID) of each image, by its name without suffix.
        advance: Told how far it is.

    Raises:
        DrnError: As for `extract_train`, or the truth does not know an image.
    """

    def target_of(name: str) -> Path:
        return out / class_of(name, truth, str(path)) / name

    with opened(str(path), path) as archive:
        return _extract(archive, members(archive, str(path)), str(path), target_of, advance)


def _extract(
    archive: tarfile.TarFile,
    found: Iterator[tarfile.TarInfo],
    where: str,
    target_of: Callable[[str], Path],
    advance: Advance,
) -> Taken:
    """Write each image that is found in an archive to where `target_of` puts its name."""
    names: set[str] = set()
    corrupt = []
    for member in found:
        name = PurePosixPath(member.name).name
        wrong = None
        if not is_image(name):
            wrong = "not named like an image"
        elif name in names:
            wrong = "a second image of this name"
        elif member.size > LARGEST:
            wrong = "larger than any image"
        elif not is_there(target := target_of(name), member.size) or not member.size:
            data = content(archive, member, where)
            wrong = fault(data)
            if wrong is None:
                write_image(target, data)
        if wrong is None:
            names.add(name)
        else:
            corrupt.append(Corrupt(member.name, wrong))
        advance(member.offset_data + member.size)
    return Taken(len(names), tuple(corrupt))
