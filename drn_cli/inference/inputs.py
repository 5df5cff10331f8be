"""Input images of predictions: files, folders and globs, and the names of the output files."""

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
NOT_ENTERED = frozenset({CYCLE, REPEATED, UNREADABLE, PREDICTIONS})  # reasons to skip a folder


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to predict. Strings instead of Paths, as there may be a million."""

    path: str
    name: str  # path of its predictions below an output folder, without a file extension


def check_inputs(inputs: Sequence[str], *, stdin: bool = False) -> None:
    """Check that no input is a URL, a video or a camera, as far as its name shows.

    Args:
        inputs: Files, folders and globs.
        stdin: Whether `-` for stdin is allowed, for the message.

    Raises:
        DrnError: One is.
    """
    accepted = "image files, folders and quoted globs"
    if stdin:
        accepted = "image files, folders, quoted globs and - for stdin"
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
        raise DrnError(f"{entry}: is a {kind}; only {accepted} are read", remedy)


def find_images(inputs: Sequence[str], outputs: Iterable[Path] = ()) -> list[InputImage]:
    """Return the images that files, folders and globs name, each once, in a fixed order.

    Folders are searched recursively, and the names of predictions keep their structure. Skipped
    files, and folders without images beside other inputs, are logged in one line each.

    Args:
        inputs: Files, folders and globs.
        outputs: Folders that are not searched: they hold predictions of an earlier run.

    Raises:
        DrnError: An input does not exist or is a file in an output folder, or there is no image in
            any of them.
    """
    excluded = [os.path.realpath(folder) for folder in outputs]
    left_out = LeftOut()
    real = lru_cache(maxsize=1024)(os.path.realpath)
    found: dict[str, str] = {}
    seen: set[str] = set()
    empty = []
    for entry in inputs:
        any_image = False
        for path, relative, is_entry in _expand(entry, excluded, left_out):
            folder, name = os.path.split(path)
            resolved = real(folder)
            if any(f"{resolved}/".startswith(f"{one}/") for one in excluded):
                if is_entry:
                    raise DrnError(
                        f"{path}: is in a folder that predictions are written to, which could "
                        "replace it",
                        "choose another --out",
                    )
                left_out.add(PREDICTIONS, relative)
                continue
            any_image = True
            key = f"{resolved}/{name}"  # two links to one image are two inputs
            if key not in seen:
                seen.add(key)
                found[path] = relative
        if not any_image and Path(entry).is_dir():
            empty.append(entry)
    if not found:
        skipped = f" ({left_out})" if left_out else ""
        raise DrnError(
            f"{', '.join(inputs)}: no images here{skipped}",
            f"supported formats: {' '.join(ENDINGS)}",
        )
    if empty:
        warn_for_all(log, f"{few_of(empty, 3)}: no images here (check the path)")
    left_out.log(", ".join(inputs))
    return list(_named(found))


def _expand(
    entry: str, excluded: Sequence[str], left_out: LeftOut
) -> Iterator[tuple[str, str, bool]]:
    """Yield the images of an input: path, path relative to it, and whether it is a file."""
    path = Path(entry)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise DrnError(f"{entry}: cannot be read: {error.strerror or error}") from error
    if is_folder:
        below = search(entry, left_out, excluded, apart_reason=PREDICTIONS)
        yield from ((os.path.normpath(path), relative, False) for path, relative in below)
    elif exists:
        yield str(path), path.name, True
    elif glob.has_magic(entry):
        matches = _matched(entry, excluded, left_out)
        yield from ((path, relative, False) for path, relative in matches)
    else:
        raise DrnError(f"{entry}: no such file or folder")


def _matched(entry: str, excluded: Sequence[str], left_out: LeftOut) -> Iterator[tuple[str, str]]:
    """Yield the images that a glob matches: path, and path below its part without wildcards.

    Raises:
        DrnError: It matches no file, not even one that is skipped.
    """
    parts = Path(entry).parts
    count = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base, pattern = Path(*parts[:count]), parts[count:]
    hidden_too = any(part.startswith(".") for part in pattern)
    if "**" in pattern and not hidden_too:
        skipped = LeftOut(partial(_may_match, pattern))
        below = search(base, skipped, excluded, apart_reason=PREDICTIONS)
        found: Iterator[tuple[str, str]] = (
            (os.path.normpath(path), relative)
            for path, relative in below
            if _matches(relative.split("/"), pattern)
        )
    else:
        skipped = LeftOut()
        found = _glob(base, pattern, hidden_too, skipped)
    empty = True
    for image in found:
        empty = False
        yield image
    if empty and not skipped.counts.keys() - NOT_ENTERED - {HIDDEN}:
        raise DrnError(f"{entry}: matches no file{f' ({skipped})' if skipped else ''}")
    left_out.merge(skipped)


def _glob(
    base: Path, pattern: Sequence[str], hidden_too: bool, left_out: LeftOut
) -> Iterator[tuple[str, str]]:
    """Yield the images that a glob matches; `*` skips hidden folders, unlike in Path.glob."""
    matches = glob.glob(  # noqa: PTH207
        str(Path(*pattern)), root_dir=base, recursive=True, include_hidden=hidden_too
    )
    for relative in sorted(matches):
        reason = skip_reason(base / relative, hidden_too=hidden_too)
        if reason is None:
            yield str(base / relative), relative
        elif reason not in (FOLDER, DEBRIS):
            left_out.add(reason, relative)


def _may_match(pattern: Sequence[str], reason: str, name: str) -> bool:
    """Whether a glob matches a skipped file, or may match files in a skipped folder."""
    parts = name.split("/")
    if _matches(parts, pattern):
        return True
    # A link to itself is unreadable too, and its name may end like an image's.
    is_folder = reason in NOT_ENTERED and not name.lower().endswith(ENDINGS)
    return is_folder and _enters(parts, pattern)


def _enters(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a glob with `**` may match files below a folder."""
    if not parts or pattern[0] == "**":
        return True
    return fnmatchcase(parts[0], pattern[0]) and _enters(parts[1:], pattern[1:])


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob; `**` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _named(found: dict[str, str]) -> Iterator[InputImage]:
    """Name predictions by the stem of their image, or by its file name if stems are equal."""
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
    """Return a path without its extension, ten times as fast as pathlib."""
    return relative.rpartition(".")[0] or relative
