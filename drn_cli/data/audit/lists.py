"""The lists of a data folder, read with patience: what is wrong with them is collected."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.audit.findings import CheckFinding, ListLine
from drn_cli.data.folders import ListDataset
from drn_cli.errors import DrnError
from drn_cli.files import read_text

SPLITS = ("train", "val", "test")

Rest = tuple[str, str]  # of an image's name and its label's


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A line of a list: the file that it names."""

    file: Path
    listed: ListLine


@dataclass(frozen=True, slots=True)
class Lists:
    """The two lists of a split.

    Attributes:
        images: Of `{split}_images.txt`.
        labels: Of `{split}_labels.txt`; empty if there is none.
    """

    images: Sequence[ListEntry]
    labels: Sequence[ListEntry]

    def pairs(self) -> list[tuple[ListEntry, ListEntry]]:
        """Give images with their labels; none at all where the lists differ in length."""
        if len(self.images) != len(self.labels):
            return []
        return list(zip(self.images, self.labels, strict=True))


def list_names(split: str) -> tuple[str, str]:
    return f"{split}_images.txt", f"{split}_labels.txt"


def splits_with_lists(folder: Path) -> list[str]:
    """Name the splits of which a list is there."""
    return [
        split for split in SPLITS if any((folder / name).is_file() for name in list_names(split))
    ]


def read_lists(folder: ListDataset, split: str) -> tuple[Lists, list[CheckFinding]]:
    """Read the lists of a split, and tell what is wrong with them and which files are missing."""
    findings: list[CheckFinding] = []
    images_name, labels_name = list_names(split)
    images = _entries(folder, images_name, findings)
    # Prediction needs no labels: those of the test split may be left out.
    wanted = split != "test" or (folder.lists / labels_name).is_file()
    labels = _entries(folder, labels_name, findings) if wanted else []
    lists = Lists(images, labels)
    for entry in (*images, *labels):
        if not entry.file.is_file():
            message = "is no file" if entry.file.exists() else "does not exist"
            hint = f"paths in the lists start at {folder.root}"
            findings.append(
                CheckFinding("error", "missing", message, entry.file, hint, entry.listed)
            )
    if images and labels:
        findings += _pairing(lists, folder.lists / labels_name)
    return lists, findings


def _entries(folder: ListDataset, name: str, findings: list[CheckFinding]) -> list[ListEntry]:
    path = folder.lists / name
    if not path.exists():
        findings.append(CheckFinding("error", "list", "no such list", path))
        return []
    try:
        lines = read_text(path).splitlines()
    except DrnError as error:
        findings.append(CheckFinding.of("list", error, path))
        return []
    entries = [
        ListEntry(folder.root / line.strip(), ListLine(name, number))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not entries:
        findings.append(CheckFinding("error", "list", "the list is empty", path))
    return entries


def _pairing(lists: Lists, labels_list: Path) -> list[CheckFinding]:
    images, labels = lists.images, lists.labels
    pairs = zip(images, labels, strict=False)
    rests = [_rest(image.file.stem, label.file.stem) for image, label in pairs]
    if len(images) != len(labels):
        message = (
            f"names {len(labels)} files, {images[0].listed.name} {len(images)}; "
            "line by line they should belong together"
        )
        hint = None
        if (part := _parting(rests)) is not None:
            image, label = images[part], labels[part]
            hint = (
                f"they seem to part at line {label.listed.line}: "
                f"{image.file.name} and {label.file.name}"
            )
        return [CheckFinding("error", "list", message, labels_list, hint)]
    return [
        CheckFinding(
            "warning",
            "pairing",
            f"is the label of {images[number].file}, other pairs share more of their names",
            labels[number].file,
            listed=labels[number].listed,
        )
        for number in _odd_pairs(rests)
    ]


def _parting(rests: Sequence[Rest]) -> int | None:
    """Find the first pair whose names do not belong together as those of the first two do."""
    if len(set(rests[:2])) > 1:
        return None
    return next((n for n, rest in enumerate(rests) if rest != rests[0]), None)


def _odd_pairs(rests: Sequence[Rest]) -> list[int]:
    """Find the pairs whose names do not belong together as those of most others do.

    Where no rest is that of most pairs, the names say nothing.
    """
    counts = Counter(rests)
    if 2 * max(counts.values()) <= len(rests):
        return []
    # A data set may be put together from two, with names of their own.
    rare = max(2, len(rests) // 20)
    common = max(counts, key=counts.__getitem__)
    return [n for n, rest in enumerate(rests) if rest != common and counts[rest] <= rare]


def _rest(image: str, label: str) -> Rest:
    """Give what is left of two names without what they begin with alike.

    Where they belong together, it is the same for all pairs: `_leftImg8bit` and
    `_gtFine_labelTrainIds` for instance, or nothing and nothing.
    """
    letters = enumerate(zip(image, label, strict=False))
    alike = next((n for n, (a, b) in letters if a != b), min(len(image), len(label)))
    return image[alike:], label[alike:]
