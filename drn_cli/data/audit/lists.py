"""Check of the lists of a data folder: problems are collected instead of raised."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.audit.findings import CheckFinding, ListLine
from drn_cli.data.folders import ListDataset
from drn_cli.errors import DrnError
from drn_cli.files import read_text

SPLITS = ("train", "val", "test")

Endings = tuple[str, str]  # what follows the common prefix of an image name and its label's name


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A line of a list and its file."""

    file: Path
    listed: ListLine


@dataclass(frozen=True, slots=True)
class Lists:
    """The two lists of a split."""

    images: Sequence[ListEntry]  # lines of {split}_images.txt
    labels: Sequence[ListEntry]  # lines of {split}_labels.txt; empty if it does not exist

    def pairs(self) -> list[tuple[ListEntry, ListEntry]]:
        """Return images with their labels; an empty list if the lists differ in length."""
        if len(self.images) != len(self.labels):
            return []
        return list(zip(self.images, self.labels, strict=True))


def list_names(split: str) -> tuple[str, str]:
    return f"{split}_images.txt", f"{split}_labels.txt"


def splits_with_lists(folder: Path) -> list[str]:
    """Return the splits of which a list exists."""
    return [
        split for split in SPLITS if any((folder / name).is_file() for name in list_names(split))
    ]


def read_lists(folder: ListDataset, split: str) -> tuple[Lists, list[CheckFinding]]:
    """Read the lists of a split; return them and their problems, including missing files."""
    findings: list[CheckFinding] = []
    images_name, labels_name = list_names(split)
    images = _entries(folder, images_name, findings)
    # Labels of the test split are optional, because prediction needs none.
    required = split != "test" or (folder.lists / labels_name).is_file()
    labels = _entries(folder, labels_name, findings) if required else []
    lists = Lists(images, labels)
    for entry in (*images, *labels):
        if not entry.file.is_file():
            message = "is not a file" if entry.file.exists() else "does not exist"
            hint = f"paths in the lists are relative to {folder.root}"
            findings.append(
                CheckFinding("error", "missing", message, entry.file, hint, entry.listed)
            )
    if images and labels:
        findings += _check_pairing(lists, folder.lists / labels_name)
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


def _check_pairing(lists: Lists, labels_list: Path) -> list[CheckFinding]:
    images, labels = lists.images, lists.labels
    # The names without their common prefix are the same for all matching pairs: for example
    # `_leftImg8bit` and `_gtFine_labelTrainIds`, or two empty strings.
    endings: list[Endings] = []
    for pair in zip(images, labels, strict=False):
        image, label = (entry.file.stem for entry in pair)
        unequal = (n for n, (a, b) in enumerate(zip(image, label, strict=False)) if a != b)
        shared = next(unequal, min(len(image), len(label)))
        endings.append((image[shared:], label[shared:]))
    if len(images) != len(labels):
        message = (
            f"lists {len(labels)} files, {images[0].listed.name} {len(images)}; "
            "each line of one belongs to the same line of the other"
        )
        hint = None
        if len(set(endings[:2])) == 1:
            different = (n for n, pair in enumerate(endings) if pair != endings[0])
            if (first := next(different, None)) is not None:
                hint = (
                    f"the names stop matching at line {labels[first].listed.line}: "
                    f"{images[first].file.name} and {labels[first].file.name}"
                )
        return [CheckFinding("error", "list", message, labels_list, hint)]
    return [
        CheckFinding(
            "warning",
            "pairing",
            f"is the label of {images[number].file}, but the names of other pairs match better",
            labels[number].file,
            listed=labels[number].listed,
        )
        for number in _unusual_pairs(endings)
    ]


def _unusual_pairs(endings: Sequence[Endings]) -> list[int]:
    """Return the pairs whose endings differ from those of most pairs.

    If no endings are those of most pairs, names do not tell, and the list is empty.
    """
    counts = Counter(endings)
    common, number = counts.most_common(1)[0]
    if 2 * number <= len(endings):
        return []
    # A data set may be composed of two that are named differently.
    rare = max(2, len(endings) // 20)
    return [n for n, pair in enumerate(endings) if pair != common and counts[pair] <= rare]
