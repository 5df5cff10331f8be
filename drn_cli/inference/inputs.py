"""Which pictures `drn predict` was given, and where their predictions go."""

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.images import SUFFIXES
from drn_cli.errors import DrnError
from drn_cli.inference.outputs import KINDS


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to predict.

    Attributes:
        path: The file.
        name: Path of its predictions below the output folder, ending in .png.
    """

    path: Path
    name: Path


def find_pictures(inputs: Sequence[str], out: Path) -> list[Picture]:
    """List the pictures that files, folders and globs name, each once, in a fixed order.

    A folder is searched through and its structure kept; predictions in `out` are left out, so that
    a second run does not predict the first one's.

    Raises:
        DrnError: An input does not exist, or none of them names a picture.
    """
    predictions = [out.resolve() / kind for kind in KINDS]
    found: dict[Path, Path] = {}
    seen: set[Path] = set()
    for entry in inputs:
        for path, relative in _expand(entry):
            place = path.parent.resolve() / path.name  # links to one picture are still two inputs
            if place in seen or any(place.is_relative_to(folder) for folder in predictions):
                continue
            seen.add(place)
            found[path] = relative
    if not found:
        raise DrnError(
            f"{', '.join(inputs)}: no pictures here", f"known: {' '.join(sorted(SUFFIXES))}"
        )
    return list(_named(found))


def _expand(entry: str) -> Iterator[tuple[Path, Path]]:
    path = Path(entry)
    if path.is_dir():
        yield from ((inner, inner.relative_to(path)) for inner in _pictures(path.rglob("*")))
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(entry):
        # The structure below the part of the pattern that has no wildcard is kept.
        fixed = Path(*_until_magic(path.parts))
        matches = list(Path(fixed).glob(str(path.relative_to(fixed))))
        if not matches:
            raise DrnError(f"{entry}: matches no file")
        yield from ((match, match.relative_to(fixed)) for match in _pictures(matches))
    else:
        raise DrnError(f"{entry}: no such file or folder")


def _until_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _named(found: dict[Path, Path]) -> Iterator[Picture]:
    """Name predictions after their pictures; `a.jpg` beside `a.png` gives `a.jpg.png`."""
    stems = Counter(relative.with_suffix("") for relative in found.values())
    taken: dict[Path, Path] = {}
    for path, relative in found.items():
        alone = stems[relative.with_suffix("")] == 1
        name = relative.with_suffix(".png") if alone else relative.with_name(f"{relative.name}.png")
        if name in taken:
            raise DrnError(f"{path} and {taken[name]} would both be written as {name}")
        taken[name] = path
        yield Picture(path, name)
