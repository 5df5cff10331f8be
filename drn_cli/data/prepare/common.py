"""What every preparation needs: a lock, the lists, info.json, fingerprints of the sources."""

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

BESIDE = "prepare.lock"  # as `clear_leftovers` wants it
INSIDE = ".prepare.lock"  # where only the data folder itself can be written


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """What a preparation made, or found made already.

    Attributes:
        out: The data folder.
        counts: Images in each split.
        unchanged: Whether it was there already, made from the same files.
    """

    out: Path
    counts: Mapping[str, int]
    unchanged: bool


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold a data folder while it is prepared, and clear what killed runs left beside it.

    The lock would outlive this process in a child that inherits it, but workers are spawned, which
    closes the file.

    Args:
        out: The data folder, which need not exist.

    Raises:
        DrnError: Another process prepares it, or the lock cannot be opened.
    """
    place = out.resolve() if out.is_symlink() or out.name in ("", "..") else out
    try:
        made = [folder for folder in place.parents if not folder.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrnError(f"{out}: cannot be written: {error.strerror or error}") from error
    beside = hidden_beside(place, BESIDE)
    path = next((p for p in (beside, place / INSIDE) if _may_write(p.parent)), None)
    if path is None:  # neither can this run write there, and reading disturbs no other run
        yield
        return
    busy = DrnError(
        f"{out}: another process is preparing it", "wait for it, or choose another folder"
    )
    try:
        with locked(path, busy) as alone:
            if alone and path == beside:
                clear_leftovers(place)
            yield
    finally:
        with suppress(OSError):  # not empty, where the run went well
            for folder in made:
                folder.rmdir()


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=True)


def up_to_date(out: Path, made_from: str) -> bool:
    """Tell whether a data folder was made from these very files.

    Args:
        out: The data folder, made already or not.
        made_from: `fingerprint` of its sources, with whatever else decides how it turns out.

    Raises:
        DrnError: It holds something else, which is not ours to replace.
    """
    if not (out / "info.json").is_file():
        return False
    info = read_json(out / "info.json")
    if isinstance(info, dict) and info.get("made_from") == made_from:
        return True
    raise DrnError(
        f"{out}: holds another data set, or one made from other files",
        "remove it or choose another folder with --out",
    )


def is_untouched(out: Path) -> bool:
    """Return whether a folder holds nothing but the lock of its preparation."""
    return out.is_dir() and all(path.name == INSIDE for path in out.iterdir())


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes the data folder, as `atomic_folder` does.

    Raises:
        DrnError: `out` exists and holds something, or the folder it is in cannot be written.
    """
    if is_untouched(out) and not _may_write(out.parent):
        raise DrnError(
            f"{out}: cannot be written as a whole: {out.absolute().parent} is read-only",
            "choose another folder",
        )
    with atomic_folder(out) as folder:
        yield folder


def place(source: Path, target: Path) -> None:
    """Put a file into a data folder: a hard link, which takes no space, or else a copy.

    Raises:
        OSError: `target` exists, or cannot be written.
    """
    try:
        target.hardlink_to(source.resolve())
    except FileExistsError:  # a copy would be written into whatever it is a link to
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def write_list(folder: Path, name: str, paths: Iterable[str]) -> None:
    """Write one list of a data folder, `train_images.txt` for instance."""
    write_text(folder / name, "".join(f"{path}\n" for path in paths))


def write_info(folder: Path, statistics: ChannelStats, class_set: ClassSet, **extra: Any) -> None:
    """Write info.json; readers of other projects look at mean and std only."""
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
    """Sum up labels for `class_pixels` of info.json, which the pre-flight of training reads.

    Args:
        labels: Split of each label, its path as the list has it, and int64 `(256,)`, its pixels of
            each id.
        classes: How many there are.
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


def check_occurring(names: Sequence[str], pixels: Sequence[int], hint: str) -> None:
    """Refuse labels that show fewer than two classes, and warn of classes that never occur.

    Args:
        names: Of the classes.
        pixels: Pixels of each class in all labels.
        hint: What to do about too few.

    Raises:
        DrnError: There is nothing to tell apart.
    """
    occurring = [name for name, count in zip(names, pixels, strict=True) if count]
    require_two_classes(occurring, "the labels", hint)
    never = [name for name, count in zip(names, pixels, strict=True) if not count]
    if never:
        log.warning(
            "%d of %d classes never occur in the labels: %s",
            *(len(never), len(names), ", ".join(never)),
        )


def require_two_classes(occurring: Sequence[str], subject: str, hint: str) -> None:
    """Refuse labels or images that show fewer than two classes.

    Raises:
        DrnError: There is nothing to tell apart.
    """
    if len(occurring) < 2:
        found = f"one class, {occurring[0]}" if occurring else "no class, only void"
        raise DrnError(f"{subject} hold {found}: training needs two", hint)


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Tell whether files are the same as before by their names, sizes and times of change."""
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
