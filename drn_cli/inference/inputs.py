"""Which images were given to look at, and what their predictions are called."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path

from drn_cli.data.file_search import (
    CYCLE,
    DEBRIS,
    ENDINGS,
    FOLDER,
    HIDDEN,
    PREDICTIONS,
    REPEATED,
    UNREADABLE,
    LeftOut,
    search,
    skip_reason,
)
from drn_cli.errors import DrnError, few_of, warn_for_all

log = logging.getLogger(__name__)

VIDEO_ENDINGS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
NOT_ENTERED = frozenset({CYCLE, REPEATED, UNREADABLE, PREDICTIONS})  # reasons against folders


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to look at. Both are strings, because there may be a million.

    Attributes:
        path: The file.
        name: Path of its predictions below a folder of theirs, without an ending.
    """

    path: str
    name: str


def check_inputs(inputs: Sequence[str]) -> None:
    """Refuse what is no image file by its name alone, before a network is loaded.

    Raises:
        DrnError: An input is a URL, a video or a camera.
    """
    for entry in inputs:
        kind, device = None, entry
        scheme, separator, _ = entry.partition("://")
        if separator and scheme.isalnum():
            kind = "URL"
        elif Path(entry).is_dir() or glob.has_magic(entry):
            continue
        elif entry.lower().endswith(VIDEO_ENDINGS):
            kind = "video"
        elif re.fullmatch(r"(/dev/video)?\d+", entry) and not Path(entry).is_file():
            kind, device = "camera", f"/dev/video{entry.removeprefix('/dev/video')}"
        if kind is None:
            continue
        remedy = f"save its frames first, for example with ffmpeg -i {device} frames/%06d.png"
        if scheme in ("http", "https") and not entry.lower().endswith(VIDEO_ENDINGS):
            remedy = f"download it first, for example with curl -O {entry}"
        accepted = "only image files, folders, quoted globs and - for stdin are read"
        raise DrnError(f"{entry}: is a {kind}; {accepted}", remedy)


def find_images(inputs: Sequence[str], outputs: Iterable[Path] = ()) -> list[InputImage]:
    """List the images that files, folders and globs name, each once, in a fixed order.

    A folder is searched through and its structure kept. What is left out, and folders
    without images beside other inputs, are logged in one line each.

    Args:
        inputs: What was given.
        outputs: Folders in which no images are looked for: those of an earlier run's predictions.

    Raises:
        DrnError: An input does not exist, or none of them names an image.
    """
    ours = [os.path.realpath(folder) for folder in outputs]
    left_out = LeftOut()
    real = lru_cache(maxsize=1024)(os.path.realpath)
    found: dict[str, str] = {}
    seen: set[str] = set()
    empty = []
    for entry in inputs:
        used = False
        for path, relative, named in _expand(entry, ours, left_out):
            folder, name = os.path.split(path)
            within = real(folder)
            place = f"{within}/{name}"  # links to one image are still two inputs
            if not named and any(f"{within}/".startswith(f"{one}/") for one in ours):
                left_out.add(PREDICTIONS, relative)
                continue
            used = True
            if place not in seen:
                seen.add(place)
                found[path] = relative
        if not used and Path(entry).is_dir():
            empty.append(entry)
    if not found:
        seen_anyway = f" ({left_out})" if left_out else ""
        raise DrnError(
            f"{', '.join(inputs)}: no images here{seen_anyway}", f"known: {' '.join(ENDINGS)}"
        )
    if empty:
        warn_for_all(log, f"{few_of(empty, 3)}: no images here (check the path)")
    left_out.log(", ".join(inputs))
    return list(_named(found))


def _expand(entry: str, ours: Sequence[str], left_out: LeftOut) -> Iterator[tuple[str, str, bool]]:
    """Give the images of an input: path, path below it, and whether the input is that file."""
    path = Path(entry)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise DrnError(f"{entry}: cannot be read: {error.strerror or error}") from error
    if is_folder:
        below = search(entry, left_out, ours, apart_reason=PREDICTIONS)
        yield from ((os.path.normpath(path), relative, False) for path, relative in below)
    elif is_there:
        yield str(path), path.name, True
    elif glob.has_magic(entry):
        yield from ((path, relative, False) for path, relative in _matched(entry, ours, left_out))
    else:
        raise DrnError(f"{entry}: no such file or folder")


def _matched(entry: str, ours: Sequence[str], left_out: LeftOut) -> Iterator[tuple[str, str]]:
    """Yield the images that a pattern matches: path, and path below its part without wildcards.

    Raises:
        DrnError: It matches no file, not even one that is left out.
    """
    path = Path(entry)
    fixed = Path(*_until_magic(path.parts))
    pattern = path.relative_to(fixed).parts
    asked = any(part.startswith(".") for part in pattern)  # for what is hidden elsewhere
    if "**" in pattern and not asked:
        passed_over = LeftOut(partial(_concerns, pattern))
        found = _search(fixed, pattern, ours, passed_over)
    else:
        passed_over = LeftOut()
        found = _glob(fixed, pattern, asked, passed_over)
    nothing = True
    for one in found:
        nothing = False
        yield one
    if nothing and not passed_over.counts.keys() - NOT_ENTERED - {HIDDEN}:
        raise DrnError(f"{entry}: matches no file{f' ({passed_over})' if passed_over else ''}")
    left_out.merge(passed_over)


def _search(
    fixed: Path, pattern: Sequence[str], ours: Sequence[str], left_out: LeftOut
) -> Iterator[tuple[str, str]]:
    """Yield the images that a pattern with `**` matches, found as in a folder that is given."""
    for path, relative in search(fixed, left_out, ours, apart_reason=PREDICTIONS):
        if _matches(relative.split("/"), pattern):
            yield os.path.normpath(path), relative


def _glob(
    fixed: Path, pattern: Sequence[str], hidden_too: bool, left_out: LeftOut
) -> Iterator[tuple[str, str]]:
    """Yield the images that a pattern matches; Path.glob would take `*` for hidden folders, too."""
    matches = glob.glob(  # noqa: PTH207
        str(Path(*pattern)), root_dir=fixed, recursive=True, include_hidden=hidden_too
    )
    for inner in sorted(matches):
        reason = skip_reason(fixed / inner, hidden_too=hidden_too)
        if reason is None:
            yield str(fixed / inner), inner
        elif reason not in (FOLDER, DEBRIS):
            left_out.add(reason, inner)


def _concerns(pattern: Sequence[str], reason: str, name: str) -> bool:
    """Return whether a pattern matches what a search left out, or may match what is below it."""
    parts = name.split("/")
    if _matches(parts, pattern):
        return True
    # A link to itself is unreadable as well, and ends as an image may.
    is_folder = reason in NOT_ENTERED and not name.lower().endswith(ENDINGS)
    return is_folder and _enters(parts, pattern)


def _enters(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a pattern with `**` may match files below a folder."""
    if not parts or pattern[0] == "**":
        return True
    return fnmatchcase(parts[0], pattern[0]) and _enters(parts[1:], pattern[1:])


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Compare a path with a pattern, part by part; `**` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _until_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _named(found: dict[str, str]) -> Iterator[InputImage]:
    """Name predictions after their images; `a.jpg` beside `a.png` gives `a.jpg`."""
    stems = Counter(_stem(relative) for relative in found.values())
    taken: dict[str, str] = {}
    for path, relative in found.items():
        stem = _stem(relative)
        name = stem if stems[stem] == 1 else relative
        if name in taken:
            raise DrnError(f"{path} and {taken[name]} would both be written as {name}")
        taken[name] = path
        yield InputImage(path, name)


def _stem(relative: str) -> str:
    """Take off a file's ending; strings are split in a tenth of the time that paths are."""
    return relative.rpartition(".")[0] or relative
