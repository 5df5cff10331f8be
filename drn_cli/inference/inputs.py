"""Which pictures were given to look at, and what their predictions are called."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from drn_cli.data.images import SUFFIXES
from drn_cli.errors import DrnError

ENDINGS = tuple(SUFFIXES)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to look at. Both are strings, because there may be a million.

    Attributes:
        path: The file.
        name: Path of its predictions below a folder of theirs, without an ending.
    """

    path: str
    name: str


def find_pictures(inputs: Sequence[str], outputs: Iterable[Path] = ()) -> list[Picture]:
    """List the pictures that files, folders and globs name, each once, in a fixed order.

    A folder is searched through and its structure kept.

    Args:
        inputs: What was given.
        outputs: Folders in which no pictures are looked for: those of an earlier run's predictions.

    Raises:
        DrnError: An input does not exist, or none of them names a picture.
    """
    ours = [os.path.realpath(folder) for folder in outputs]
    real = lru_cache(maxsize=1024)(os.path.realpath)
    found: dict[str, str] = {}
    seen: set[str] = set()
    for entry in inputs:
        for path, relative, named in _expand(entry):
            folder, name = os.path.split(path)
            within = real(folder)
            place = f"{within}/{name}"  # links to one picture are still two inputs
            hidden = not named and any(f"{within}/".startswith(f"{one}/") for one in ours)
            if place not in seen and not hidden:
                seen.add(place)
                found[path] = relative
    if not found:
        raise DrnError(
            f"{', '.join(inputs)}: no pictures here", f"known: {' '.join(sorted(SUFFIXES))}"
        )
    return list(_named(found))


def _expand(entry: str) -> Iterator[tuple[str, str, bool]]:
    """Give the pictures of an input: path, path below it, and whether the input is that file."""
    path = Path(entry)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise DrnError(f"{entry}: cannot be read: {error.strerror or error}") from error
    if is_folder:
        yield from ((inner, relative, False) for inner, relative in _below(entry, ""))
    elif is_there:
        yield str(path), path.name, True
    elif glob.has_magic(entry):
        # The structure below the part of the pattern that has no wildcard is kept.
        fixed = Path(*_until_magic(path.parts))
        matches = sorted(fixed.glob(str(path.relative_to(fixed))))
        if not matches:
            raise DrnError(f"{entry}: matches no file")
        for match in matches:
            if match.name.lower().endswith(ENDINGS) and match.is_file():
                yield str(match), str(match.relative_to(fixed)), False
    else:
        raise DrnError(f"{entry}: no such file or folder")


def _below(folder: str, relative: str) -> Iterator[tuple[str, str]]:
    """Search through a folder, in the order of names; links to folders are not followed."""
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DrnError(f"{folder}: cannot be read: {error.strerror or error}") from error
    for entry in ordered:
        inner = f"{relative}/{entry.name}" if relative else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path, inner)
        elif entry.name.lower().endswith(ENDINGS) and entry.is_file():
            yield os.path.normpath(entry.path), inner


def _until_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _named(found: dict[str, str]) -> Iterator[Picture]:
    """Name predictions after their pictures; `a.jpg` beside `a.png` gives `a.jpg`."""
    stems = Counter(_stem(relative) for relative in found.values())
    taken: dict[str, str] = {}
    for path, relative in found.items():
        stem = _stem(relative)
        name = stem if stems[stem] == 1 else relative
        if name in taken:
            raise DrnError(f"{path} and {taken[name]} would both be written as {name}")
        taken[name] = path
        yield Picture(path, name)


def _stem(relative: str) -> str:
    """Take off a file's ending; strings are split in a tenth of the time that paths are."""
    return relative.rpartition(".")[0] or relative
