"""Shared by all data preparations: folder lock, list files, info.json, source fingerprints."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.folders import ChannelStats, list_digest
from drn_cli.errors import DrnError
from drn_cli.files import (
    atomic_folder,
    clear_leftovers,
    hidden_beside,
    locked,
    read_json,
    write_json,
    write_text,
)

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
LOCK_BESIDE = "prepare.lock"  # ending of the lock file's name; `clear_leftovers` relies on it
LOCK_INSIDE = ".prepare.lock"  # used if only the data folder itself is writable


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """Result of a data preparation."""

    out: Path
    counts: Mapping[str, int]  # number of images in each split
    unchanged: bool  # whether the folder was up to date, so that nothing was written


@contextmanager
def locked_folder(out: Path) -> Iterator[None]:
    """Lock a data folder against other preparations and remove leftovers of killed runs.

    A child process that inherited the lock file would keep the lock after this process ends.
    Workers are spawned, which closes the file.

    Args:
        out: The data folder, which need not exist.

    Raises:
        DrnError: Another process holds the lock, or the lock file cannot be opened.
    """
    target = out.resolve() if out.is_symlink() or out.name in ("", "..") else out
    try:
        created = [folder for folder in target.parents if not folder.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrnError(f"{out}: cannot be written: {error.strerror or error}") from error
    beside = hidden_beside(target, LOCK_BESIDE)
    path = next((p for p in (beside, target / LOCK_INSIDE) if _is_writable(p.parent)), None)
    if path is None:  # nothing can be written there, and reading needs no lock
        yield
        return
    busy = DrnError(
        f"{out}: another process is preparing it", "wait for it, or choose another folder"
    )
    try:
        with locked(path, busy) as exclusive:
            if exclusive and path == beside:
                clear_leftovers(target)
            yield
    finally:
        with suppress(OSError):  # not empty after a successful run
            for folder in created:
                folder.rmdir()


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=True)


def up_to_date(out: Path, made_from: str) -> bool:
    """Return whether a data folder was made from the same sources with the same options.

    Args:
        out: The data folder, which need not exist.
        made_from: `fingerprint` of the sources, combined with the options that affect the result.

    Raises:
        DrnError: The folder was made from something else.
    """
    if not (out / "info.json").is_file():
        return False
    info = read_json(out / "info.json")
    if isinstance(info, dict) and info.get("made_from") == made_from:
        return True
    raise DrnError(
        f"{out}: contains another data set, or was made from other files or with other options",
        "remove it or choose another folder with --out",
    )


def is_empty(out: Path) -> bool:
    """Return whether a folder exists and contains no file besides its lock."""
    return out.is_dir() and all(path.name == LOCK_INSIDE for path in out.iterdir())


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to the data folder on success.

    Raises:
        DrnError: `out` is not empty, or its parent folder is not writable.
    """
    if is_empty(out) and not _is_writable(out.parent):
        raise DrnError(
            f"{out}: cannot be written: {out.absolute().parent} is read-only",
            "choose another folder",
        )
    with atomic_folder(out) as folder:
        yield folder


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link to a file, or a copy where links are not possible.

    Raises:
        OSError: `target` exists or cannot be written.
    """
    try:
        # A hard link to a symbolic link would be a dangling symbolic link in its new folder.
        target.hardlink_to(source.resolve())
    except FileExistsError:  # copying would write through an existing link
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def write_list(folder: Path, name: str, paths: Iterable[str]) -> None:
    """Write a list file of a data folder, such as `train_images.txt`."""
    write_text(folder / name, "".join(f"{path}\n" for path in paths))


def write_info(folder: Path, statistics: ChannelStats, class_set: ClassSet, **extra: Any) -> None:
    """Write info.json; the original implementation reads only mean and std."""
    write_json(
        folder / "info.json",
        {
            "mean": statistics.mean,
            "std": statistics.std,
            "classes": class_set.names,
            "colours": class_set.colours,
            **extra,
        },
    )


def count_pixels(
    labels: Iterable[tuple[str, str, npt.NDArray[np.int64]]], classes: int
) -> dict[str, Any]:
    """Return `class_pixels` of info.json, which the pre-flight checks of training read.

    Args:
        labels: For each label its split, its path in the list, and its pixel count of each id,
            int64 `(256,)`.
        classes: Number of classes.
    """
    paths: dict[str, list[str]] = {}
    totals: dict[str, npt.NDArray[np.int64]] = {}
    for split, path, pixels in labels:
        paths.setdefault(split, []).append(path)
        totals[split] = totals.get(split, np.zeros(256, np.int64)) + pixels
    return {
        split: {
            "labels": len(paths[split]),
            "list": list_digest(paths[split]),
            "pixels": total[:classes].tolist(),
            "void": int(total[IGNORED]),
        }
        for split, total in totals.items()
    }


def check_classes_occur(names: Sequence[str], pixels: Sequence[int], hint: str) -> None:
    """Check that at least two classes occur in the labels; warn of classes without pixels.

    Args:
        names: Class names.
        pixels: Pixel count of each class over all labels.
        hint: How to fix labels of fewer than two classes.

    Raises:
        DrnError: Fewer than two classes occur.
    """
    counted = list(zip(names, pixels, strict=True))
    require_two_classes([name for name, count in counted if count], "the labels", hint)
    if never := [name for name, count in counted if not count]:
        log.warning(
            "%d of %d classes never occur in the labels: %s",
            *(len(never), len(names), ", ".join(never)),
        )


def require_two_classes(occurring: Sequence[str], subject: str, hint: str) -> None:
    """Raise DrnError if fewer than two classes occur in labels or images."""
    if len(occurring) < 2:
        found = f"only the class {occurring[0]}" if occurring else "no class, only void"
        raise DrnError(f"{subject} contain {found}; training needs at least two classes", hint)


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Return a SHA-256 of the names (relative to `root`), sizes and modification times of files."""
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
