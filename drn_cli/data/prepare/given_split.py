"""Find the train/val/test split of a source data set.

Three formats are known: Pascal VOC's `ImageSets/Segmentation/*.txt`, folders named after the
splits, and list files beside the data.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drn_cli.data.file_search import ENDINGS
from drn_cli.data.prepare.matching import Pair
from drn_cli.errors import DrnError
from drn_cli.files import read_text

# Split of each known name of a folder or list file.
NAMES: Mapping[str, str] = {
    **{"train": "train", "training": "train", "trainval": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
VOC = ("ImageSets", "Segmentation")  # in the folder that contains JPEGImages
RANDOM_HINT = "use --split random for a random split"


@dataclass(frozen=True, slots=True)
class SourceSplit:
    """The split of a source data set."""

    kind: str  # its format: `voc`, `folders` or `lists`
    source: str  # description of the folders or list files, for messages
    # `train`, `val` or `test` of each pair, in order; None for pairs in no list
    splits: Sequence[str | None]
    absent: int = 0  # number of list entries without a pair

    def __str__(self) -> str:
        counts = Counter(self.splits)
        parts = [f"{counts[split]:,} {split}" for split in dict.fromkeys(NAMES.values())]
        notes = []
        if counts[None]:
            notes.append(f"pairs in no list, left out: {counts[None]:,}")
        if self.absent:
            notes.append(f"list entries without a pair: {self.absent:,}")
        return "; ".join([f"{self.source}: {', '.join(parts)}", *notes])

    def to_json(self) -> dict[str, object]:
        return {"kind": self.kind, "source": self.source}


def find_split(images: Path, labels: Path, pairs: Sequence[Pair]) -> SourceSplit | None:
    """Return the split of a source data set; None if it has none.

    A source whose images are all in `train` has no split. If lists name images for validation or
    test and none for training, all other images are training images.

    Args:
        images: Folder of the images.
        labels: Folder of the labels.
        pairs: The pairs, with paths relative to these folders.

    Raises:
        DrnError: The split is inconsistent: an image is in two splits, or some images are in
            split folders, or in the only list, train, and others are not.
    """
    inside = {
        folder / parent
        for pair in pairs
        for folder, path in ((images, pair.image), (labels, pair.label))
        for parent in PurePosixPath(path).parents
    }
    around = [images, images.parent, labels, labels.parent]
    folders = list(
        dict.fromkeys([*around, *sorted(inside, key=lambda path: (len(path.parts), path))])
    )
    index = _PairIndex(pairs, images, labels, around)
    if found := _from_lists("voc", [folder.joinpath(*VOC) for folder in folders], index):
        return found
    by_folder = _from_folders(pairs)
    if by_folder and len(set(by_folder.splits)) > 1:
        return by_folder
    return _from_lists("lists", folders, index) or by_folder


def _from_folders(pairs: Sequence[Pair]) -> SourceSplit | None:
    """Read the split from folder names in the paths of images, or else of labels."""
    named = [(_splits_in(pair.image), _splits_in(pair.label)) for pair in pairs]
    found = [of_image or of_label for of_image, of_label in named]
    if not any(found) or all(names == ["train"] for names in found):
        return None
    all_names = " and ".join(dict.fromkeys(name for names in found for name in names))
    for pair, names, (_, of_label) in zip(pairs, found, named, strict=True):
        if len(names) > 1:
            problem = f"path contains two split names, {' and '.join(names)}"
            raise DrnError(f"{pair.image}: {problem}", RANDOM_HINT)
        if not names:
            raise DrnError(
                f"{pair.image}: is in no split folder, but other images are in {all_names}",
                f"move it into one, or {RANDOM_HINT}",
            )
        if (of_label or names) != names:
            problem = f"is in {names[0]}, but its label {pair.label} is in another split"
            raise DrnError(f"{pair.image}: {problem}", RANDOM_HINT)
    parents = [
        PurePosixPath(pair.image if of_image else pair.label).parent.parts
        for pair, (of_image, _) in zip(pairs, named, strict=True)
    ]
    words = dict.fromkeys(part for parts in parents for part in parts if part.casefold() in NAMES)
    parts = [f"{{{','.join(words)}}}" if part in words else part for part in parents[0]]
    return SourceSplit("folders", f"folders {'/'.join(parts)}", [names[0] for names in found])


def _splits_in(path: str) -> list[str]:
    """Return the splits that folder names of a path stand for, without duplicates."""
    names = [part.casefold() for part in PurePosixPath(path).parent.parts]
    return list(dict.fromkeys(NAMES[name] for name in names if name in NAMES))


def _from_lists(kind: str, folders: Iterable[Path], index: "_PairIndex") -> SourceSplit | None:
    """Read the split from the list files of the first folder whose lists name these pairs."""
    for folder in folders:
        paths = {folder / f"{name}.txt": split for name, split in NAMES.items()}
        lists = {path: split for path, split in paths.items() if path.is_file()}
        union = folder / "trainval.txt"  # train and val together
        halves = {split for path, split in lists.items() if path != union} & {"train", "val"}
        if union in lists and halves:
            del lists[union]
            if len(halves) == 1:  # entries that are not in the one list are the other split
                lists[union] = "val" if halves == {"train"} else "train"
        splits: list[str | None] = [None] * len(index.pairs)
        absent = set()
        for path, split in lists.items():
            lines = enumerate(read_text(path).split("\n"), start=1)
            for line_number, entry in ((n, line.strip()) for n, line in lines if line.strip()):
                number = index.find(folder, entry)
                if number is None:
                    absent.add(entry)
                elif path == union and splits[number] in halves:
                    continue
                elif splits[number] not in (None, split):
                    image = index.pairs[number].image
                    raise DrnError(
                        f"{path}:{line_number}: {image} is also in {splits[number]}",
                        f"remove it from one of the two lists, or {RANDOM_HINT}",
                    )
                else:
                    splits[number] = split
        listed = {split for split in splits if split}
        if not listed or set(splits) == {"train"}:
            continue
        source = f"{folder}/{{{','.join(path.name for path in lists)}}}"
        if listed == {"train"}:
            raise DrnError(
                f"{source}: names {splits.count('train'):,} of {len(splits):,} images, and no "
                "list names the others",
                f"add val.txt, or {RANDOM_HINT}",
            )
        if "train" not in lists.values():
            source += ", all others train"
            splits = [split or "train" for split in splits]
        return SourceSplit(kind, source, splits, len(absent))
    return None


class _PairIndex:
    """Finds pairs by the entries of list files."""

    def __init__(
        self, pairs: Sequence[Pair], images: Path, labels: Path, bases: Sequence[Path]
    ) -> None:
        self.pairs = pairs
        self._bases = bases
        self._folders: dict[Path, tuple[Path, frozenset[str]]] = {}
        self._files: dict[Path, int] = {}
        self._tails: dict[str, int | None] = {}  # None if more than one pair has this tail
        for number, pair in enumerate(pairs):
            for path in (images / pair.image, labels / pair.label):
                self._files[self._folder(path.parent)[0] / path.name] = number
            files = PurePosixPath(pair.image), PurePosixPath(pair.label)
            stems = {pair.stem, *(path.with_suffix("").as_posix() for path in files)}
            for name in {tail for stem in stems for tail in _tails(stem)}:
                self._tails[name] = number if self._tails.get(name, number) == number else None

    def find(self, folder: Path, entry: str) -> int | None:
        """Return the index of the pair that a list entry names.

        The image path is the whole entry, or its part before the first space or comma. It is
        looked up relative to the folder of the list, to the folders of images and labels and to
        their parents. A path that does not exist there, for example of another computer, is
        matched by its last components.
        """
        texts = (entry, entry.split(maxsplit=1)[0], entry.partition(",")[0])
        names = [text.replace("\\", "/") for text in dict.fromkeys(texts)]
        for base in dict.fromkeys((folder, *self._bases)):
            for name in names:
                path = base / name
                real, existing = self._folder(path.parent)
                for ending in ("", *ENDINGS):
                    file = path.name + ending
                    if file in existing and file.lower().endswith(ENDINGS):
                        return self._files.get(real / file)
        for name in names:
            stem = name.rpartition(".")[0] if name.lower().endswith(ENDINGS) else name
            for tail in _tails(stem):
                if (number := self._tails.get(tail)) is not None:
                    return number
        return None

    def _folder(self, path: Path) -> tuple[Path, frozenset[str]]:
        """Return the real path of a folder and the names in it, cached."""
        if path not in self._folders:
            try:
                names = frozenset(file.name for file in path.iterdir())
                self._folders[path] = path.resolve(), names
            except (OSError, ValueError):  # ValueError: a null byte
                self._folders[path] = path, frozenset()
        return self._folders[path]


def _tails(path: str) -> Iterator[str]:
    """Yield a path without its first 0, 1, 2, ... components."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    yield from ("/".join(parts[start:]) for start in range(len(parts)))
