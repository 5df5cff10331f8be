"""What a prediction is written as, and what is there already."""

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
from drn_cli.data.images import Pixels, colored_png, image_png, index_png, overlay
from drn_cli.errors import DrnError
from drn_cli.files import atomic, open_lock

Kind = Literal["index", "colour", "overlay", "probabilities"]

ENDINGS: dict[Kind, str] = {
    "index": ".png",
    "colour": ".png",
    "overlay": ".png",
    "probabilities": ".npz",
}
KINDS = tuple(ENDINGS)  # folders below the output folder
DEFAULT_KINDS: tuple[Kind, ...] = ("index", "colour", "overlay")
LOCK = ".lock"
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # what `atomic` names files before they are whole


def output_path(out: Path, kind: Kind, name: str) -> Path:
    """Name the file of a prediction.

    Args:
        out: The folder of all predictions.
        kind: What is written.
        name: Path below the folder of its kind, without an ending.
    """
    return out / kind / f"{name}{ENDINGS[kind]}"


def encode(
    kind: Kind, image: Pixels, classes: Pixels, probabilities: Tensor | None, class_set: ClassSet
) -> bytes:
    """Make the content of a file.

    Args:
        kind: Which one: `index` is a grey PNG of class ids; `colour` the same with a palette;
            `overlay` has the colours laid over the image; `probabilities` is an npz file with
            `probabilities`, float16 `(C, H, W)`, and the names of the `classes`.
        image: The image, uint8 `(H, W, 3)`.
        classes: Its classes, uint8 `(H, W)`.
        probabilities: Float `(C, H, W)`, if they are to be written.
        class_set: Names and colours of the classes.
    """
    if kind == "index":
        return index_png(classes)
    if kind == "colour":
        return colored_png(classes, class_set)
    if kind == "overlay":
        return image_png(overlay(image, classes, class_set))
    assert probabilities is not None
    file = io.BytesIO()
    halves = probabilities.half().cpu().numpy()
    np.savez(file, probabilities=halves, classes=np.array(class_set.names))
    return file.getvalue()


def check_place(out: Path, path: Path) -> None:
    """Refuse a file whose folder below the output folder is reached through a symbolic link.

    Raises:
        DrnError: It is.
    """
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
    """Write files of some kinds, each whole or not at all; as `encode`.

    Returns:
        The files by their kind.

    Raises:
        DrnError: A file cannot be written, or would be through a symbolic link.
    """
    files = {}
    for kind in kinds:
        path = output_path(out, kind, name)
        check_place(out, path)
        with atomic(path, durable=False) as temporary:
            temporary.write_bytes(encode(kind, image, classes, probabilities, class_set))
        files[str(kind)] = str(path)
    return files


def is_written(out: Path, name: str, kinds: Sequence[Kind]) -> bool:
    """Tell whether all files of a prediction are there, none of them empty."""
    try:
        return all(output_path(out, kind, name).stat().st_size > 0 for kind in kinds)
    except OSError:
        return False


@contextmanager
def writing_below(out: Path) -> Iterator[bool]:
    """Share the output folder, and first clear away the halves that killed processes left in it.

    Nothing is cleared while another process shares it. The lock goes with the process that has it.

    Yields:
        Whether no other process shared it at the beginning.

    Raises:
        DrnError: The folder cannot be made or written, or one in it is a symbolic link.
    """
    for kind in KINDS:
        check_place(out, out / kind / "any")
    with lock_below(out, LOCK) as lock:
        alone = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear_halves(out)
        except BlockingIOError:
            alone = False
        except OSError:  # there are no locks
            pass
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield alone


def lock_below(out: Path, name: str) -> IO[bytes]:
    """Open a lock file in an output folder, which is made when it is missing.

    Raises:
        DrnError: The folder or the file cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrnError(f"{out}: cannot be written: {error.strerror or error}") from error
    return open_lock(out / name)


def _clear_halves(out: Path) -> None:
    for kind in KINDS:
        for folder, _, names in os.walk(out / kind):
            for name in filter(TEMPORARY.fullmatch, names):
                (Path(folder) / name).unlink(missing_ok=True)
