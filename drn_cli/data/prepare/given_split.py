"""The split that a source of images and labels already has, found by its folders and lists.

`find_split` is the one place that knows how sources write a split: Pascal VOC's
`ImageSets/Segmentation/*.txt`, folders named after the splits, and lists beside the data.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drn_cli.data.file_search import ENDINGS
from drn_cli.data.prepare.matching import Pair
from drn_cli.errors import DrnError
from drn_cli.files import read_text

# What sources call the splits, both folders and lists.
NAMES: Mapping[str, str] = {
    **{"train": "train", "training": "train", "trainval": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
VOC = ("ImageSets", "Segmentation")  # below the folder that holds JPEGImages
ANOTHER = "--split random makes another split"


@dataclass(frozen=True, slots=True)
class GivenSplit:
    """The split that a source has.

    Attributes:
        kind: How the source writes it: `voc`, `folders` or `lists`.
        source: Where it was found, for people.
        splits: `train`, `val` or `test` of each pair, in their order; None for a pair in no list.
        lists: The files that decide it, if it is written in lists.
        absent: How many entries of the lists are none of the pairs.
    """

    kind: str
    source: str
    splits: Sequence[str | None]
    lists: Sequence[Path] = ()
    absent: int = 0

    def __str__(self) -> str:
        counts = Counter(self.splits)
        parts = [f"{counts[split]:,} {split}" for split in dict.fromkeys(NAMES.values())]
        notes = []
        if counts[None]:
            notes.append(f"pairs in no list, left out: {counts[None]:,}")
        if self.absent:
            notes.append(f"names in the lists without a pair: {self.absent:,}")
        return "; ".join([f"{self.source}: {', '.join(parts)}", *notes])

    def to_json(self) -> dict[str, object]:
        return {"kind": self.kind, "source": self.source}


def find_split(images: Path, labels: Path, matches: Sequence[Pair]) -> GivenSplit | None:
    """Find the split that a source has; None if it has none.

    `train` alone, in the path or the list of all images, divides nothing and is none. Where lists
    mark images for validation or testing and none for training, the rest trains.

    Args:
        images: Folder of the images.
        labels: Folder of the labels.
        matches: The pairs, as paths below them.

    Raises:
        DrnError: The source contradicts itself: an image is in two splits, or only some images
            are in folders of a split or in the only list, of training images.
    """
    inside = {
        folder / parent
        for match in matches
        for folder, path in ((images, match.image), (labels, match.label))
        for parent in PurePosixPath(path).parents
    }
    around = [images, images.parent, labels, labels.parent]
    places = list(
        dict.fromkeys([*around, *sorted(inside, key=lambda path: (len(path.parts), path))])
    )
    pairs = _Pairs(matches, images, labels, around)
    if found := _from_lists("voc", [place.joinpath(*VOC) for place in places], pairs):
        return found
    folders = _from_folders(matches)
    if folders and len(set(folders.splits)) > 1:
        return folders
    return _from_lists("lists", places, pairs) or folders


def _from_folders(matches: Sequence[Pair]) -> GivenSplit | None:
    named = [(_named(match.image), _named(match.label)) for match in matches]
    found = [of_image or of_label for of_image, of_label in named]
    if not any(found) or all(names == ["train"] for names in found):
        return None
    marked = " and ".join(dict.fromkeys(name for names in found for name in names))
    for match, names, (_, of_label) in zip(matches, found, named, strict=True):
        if len(names) > 1:
            raise DrnError(
                f"{match.image}: its path names two splits, {' and '.join(names)}", ANOTHER
            )
        if not names:
            raise DrnError(
                f"{match.image}: is in no folder of a split, and others are in one of {marked}",
                f"move it into one; {ANOTHER}",
            )
        if (of_label or names) != names:
            raise DrnError(
                f"{match.image}: is in {names[0]}, its label {match.label} in another split",
                ANOTHER,
            )
    marking = [
        PurePosixPath(match.image if of_image else match.label).parent.parts
        for match, (of_image, _) in zip(matches, named, strict=True)
    ]
    words = dict.fromkeys(
        part for folders in marking for part in folders if part.casefold() in NAMES
    )
    parts = [f"{{{','.join(words)}}}" if part in words else part for part in marking[0]]
    return GivenSplit("folders", f"folders {'/'.join(parts)}", [names[0] for names in found])


def _named(path: str) -> list[str]:
    """Return the splits that the folders of a path name, each once."""
    folders = PurePosixPath(path).parent.parts
    return list(
        dict.fromkeys(NAMES[part.casefold()] for part in folders if part.casefold() in NAMES)
    )


def _from_lists(kind: str, places: Iterable[Path], pairs: "_Pairs") -> GivenSplit | None:
    """Read the lists of a split in the first place that has lists of these pairs."""
    for place in places:
        lists = {
            place / f"{name}.txt": split
            for name, split in NAMES.items()
            if (place / f"{name}.txt").is_file()
        }
        union = place / "trainval.txt"  # holds train and val together
        halves = {split for path, split in lists.items() if path != union} & {"train", "val"}
        if union in lists and halves:
            del lists[union]
            if len(halves) == 1:  # what the one list does not have of it is the other split
                lists[union] = "val" if halves == {"train"} else "train"
        splits: list[str | None] = [None] * len(pairs.matches)
        absent = set()
        for path, split in lists.items():
            for where, line in _lines(path):
                number = pairs.find(place, line)
                if number is None:
                    absent.add(line)
                elif path == union and splits[number] in halves:
                    continue
                elif splits[number] not in (None, split):
                    raise DrnError(
                        f"{where}: {pairs.matches[number].image} is in {splits[number]} as well",
                        f"take it out of one of the two lists; {ANOTHER}",
                    )
                else:
                    splits[number] = split
        marked = {split for split in splits if split}
        if not marked or set(splits) == {"train"}:
            continue
        source = f"{place}/{{{','.join(path.name for path in lists)}}}"
        if marked == {"train"}:
            raise DrnError(
                f"{source}: has {splits.count('train'):,} of {len(splits):,} images, and no list "
                "says what the others are for",
                f"add val.txt; {ANOTHER}",
            )
        if "train" not in lists.values():
            source += ", the rest trains"
            splits = [split or "train" for split in splits]
        return GivenSplit(kind, source, splits, list(lists), len(absent))
    return None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


class _Pairs:
    """The pairs of a source, to be found by what a line of a list calls them."""

    def __init__(
        self, matches: Sequence[Pair], images: Path, labels: Path, places: Sequence[Path]
    ) -> None:
        self.matches = matches
        self._places = places
        self._real: dict[Path, tuple[Path, frozenset[str]]] = {}
        self._files: dict[Path, int] = {}
        self._tails: dict[str, int | None] = {}  # None where more than one pair has it
        for number, match in enumerate(matches):
            for path in (images / match.image, labels / match.label):
                self._files[self._folder(path.parent)[0] / path.name] = number
            files = PurePosixPath(match.image), PurePosixPath(match.label)
            stems = {match.stem, *(path.with_suffix("").as_posix() for path in files)}
            for name in {tail for stem in stems for tail in _tails(stem)}:
                self._tails[name] = number if self._tails.get(name, number) == number else None

    def find(self, place: Path, line: str) -> int | None:
        """Find the pair that a line names: as a whole, or by its first word, as `IMAGE LABEL`.

        A file that exists, from the folder of the list, of the images or labels or above these, is
        meant as it is.
        Of other paths, which may come from another machine, the end has to do.
        """
        texts = (line, line.split(maxsplit=1)[0], line.partition(",")[0])
        names = [text.replace("\\", "/") for text in dict.fromkeys(texts)]
        for base in dict.fromkeys((place, *self._places)):
            for name in names:
                if file := self._existing(base / name):
                    return self._files.get(file)
        for name in names:
            stem = name.rpartition(".")[0] if name.lower().endswith(ENDINGS) else name
            for tail in _tails(stem):
                if (number := self._tails.get(tail)) is not None:
                    return number
        return None

    def _existing(self, path: Path) -> Path | None:
        """Find an image file by its path, which may lack the format."""
        folder, names = self._folder(path.parent)
        called = (path.name + ending for ending in ("", *ENDINGS))
        found = (n for n in called if n in names and n.lower().endswith(ENDINGS))
        return next((folder / name for name in found), None)

    def _folder(self, path: Path) -> tuple[Path, frozenset[str]]:
        """Return where a folder really is, and the names in it; each is read once."""
        if path not in self._real:
            try:
                names = frozenset(file.name for file in path.iterdir())
                self._real[path] = path.resolve(), names
            except (OSError, ValueError):  # ValueError: a null byte
                self._real[path] = path, frozenset()
        return self._real[path]


def _tails(path: str) -> Iterator[str]:
    """Yield a path, and what is left of it without the first folder, the first two, and so on."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    yield from ("/".join(parts[start:]) for start in range(len(parts)))
