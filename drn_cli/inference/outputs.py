"""Output files of segmentation predictions."""

import fcntl
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import numpy as np
from torch import Tensor

from drn_cli.data.classes import ClassSet
from drn_cli.data.images import Pixels, colored_png, encode_png, overlay
from drn_cli.errors import DrnError
from drn_cli.files import atomic, open_lock

Kind = Literal["index", "colour", "overlay", "probabilities"]

ENDINGS: dict[Kind, str] = {
    "index": ".png",
    "colour": ".png",
    "overlay": ".png",
    "probabilities": ".npz",
}
KINDS = tuple(ENDINGS)  # subfolders of the output folder
DEFAULT_KINDS: tuple[Kind, ...] = ("index", "colour", "overlay")
LOCK = ".lock"
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # names of incomplete files, from `atomic`


def output_path(out: Path, kind: Kind, name: str) -> Path:
    """Return the path of an output file.

    Args:
        out: The output folder.
        kind: Kind of output, the name of a subfolder.
        name: Path below that subfolder, without a file extension.
    """
    return out / kind / f"{name}{ENDINGS[kind]}"


def encode(
    kind: Kind, image: Pixels, classes: Pixels, probabilities: Tensor | None, class_set: ClassSet
) -> bytes:
    """Return the content of an output file.

    Args:
        kind: `index`: grayscale PNG of class ids; `colour`: the same with a palette; `overlay`:
            the colors blended with the image; `probabilities`: npz file with `probabilities`,
            float16 `(C, H, W)`, and the names of the `classes`.
        image: The image, uint8 `(H, W, 3)`.
        classes: Class ids of the pixels, uint8 `(H, W)`.
        probabilities: Float `(C, H, W)`; required by `probabilities`.
        class_set: Names and colors of the classes.
    """
    if kind == "index":
        return encode_png(classes)
    if kind == "colour":
        return colored_png(classes, class_set)
    if kind == "overlay":
        return encode_png(overlay(image, classes, class_set))
    assert probabilities is not None
    file = io.BytesIO()
    halves = probabilities.half().cpu().numpy()
    np.savez(file, probabilities=halves, classes=np.array(class_set.names))
    return file.getvalue()


def refuse_symlinks(out: Path, path: Path) -> None:
    """Raise DrnError if a folder between the output folder and a file is a symbolic link."""
    for folder in path.parents:
        if folder == out:
            return
        if folder.is_symlink():
            raise DrnError(
                f"{folder}: is a symbolic link, and nothing is written through it",
                "remove it or choose another --out",
            )


def write_prediction(
    out: Path,
    name: str,
    kinds: Sequence[Kind],
    image: Pixels,
    classes: Pixels,
    probabilities: Tensor | None,
    class_set: ClassSet,
) -> dict[str, str]:
    """Write the output files of an image atomically; arguments as for `encode`.

    Returns:
        The path of each kind.

    Raises:
        DrnError: A file cannot be written, or its folder is a symbolic link.
    """
    files = {}
    for kind in kinds:
        path = output_path(out, kind, name)
        refuse_symlinks(out, path)
        with atomic(path, durable=False) as temporary:
            temporary.write_bytes(encode(kind, image, classes, probabilities, class_set))
        files[str(kind)] = str(path)
    return files


def is_written(out: Path, name: str, kinds: Sequence[Kind]) -> bool:
    """Whether all output files of an image exist and are not empty."""
    try:
        return all(output_path(out, kind, name).stat().st_size > 0 for kind in kinds)
    except OSError:
        return False


@contextmanager
def output_directory(out: Path) -> Iterator[bool]:
    """Create and lock an output folder, and remove incomplete files of killed processes.

    The lock is shared: other processes may write into the folder too. Then nothing is removed.

    Yields:
        Whether no other process had the lock at the start.

    Raises:
        DrnError: The folder cannot be created or written, or a subfolder is a symbolic link.
    """
    for kind in KINDS:
        refuse_symlinks(out, out / kind / "any")
    with open_lock_in(out, LOCK) as lock:
        alone = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for kind in KINDS:
                for folder, _, names in os.walk(out / kind):
                    for name in filter(TEMPORARY.fullmatch, names):
                        (Path(folder) / name).unlink(missing_ok=True)
        except BlockingIOError:
            alone = False
        except OSError:  # the file system has no locks
            pass
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield alone


def open_lock_in(out: Path, name: str) -> IO[bytes]:
    """Open a lock file in an output folder, which is created if missing.

    Raises:
        DrnError: The folder or the file cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrnError(f"{out}: cannot be written: {error.strerror or error}") from error
    return open_lock(out / name)
