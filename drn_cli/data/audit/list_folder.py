"""Auditing a list folder: images, label maps, and what they are together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from drn_cli.data.audit.duplicates import Occurrence, duplicates
from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.frequencies import Frequencies
from drn_cli.data.audit.info import compare, read_info
from drn_cli.data.audit.labels import (
    class_count_findings,
    lossy_findings,
    orientation_finding,
    size_finding,
    too_few_classes,
    value_findings,
)
from drn_cli.data.audit.lists import Lists, read_lists
from drn_cli.data.audit.reading import DataFile, FileInfo, read_file_infos
from drn_cli.data.audit.report import CheckReport, ClassPixels, SplitStats, extremes, in_order
from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.folders import ListDataset
from drn_cli.data.parallel import Progress, RunningStats


@dataclass(slots=True)
class Files:
    """What reading the files told; those that are not there are left out.

    Attributes:
        images: By path.
        labels: By path.
        training: Sums over the training images.
    """

    images: dict[Path, FileInfo] = field(default_factory=dict)
    labels: dict[Path, FileInfo] = field(default_factory=dict)
    training: RunningStats = field(default_factory=lambda: RunningStats.total([]))


def check_list_folder(
    folder: ListDataset,
    splits: Sequence[str],
    classes: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Read all that the lists name, once, with all cores, and collect what is wrong.

    Args:
        folder: The data folder.
        splits: Which to look at, training first.
        classes: Number of classes; by default as many as info.json names. If that is not known
            either, label values are counted but not judged.
        progress: Called with files read and files in all.
    """
    info = read_info(folder, classes)
    findings = list(info.findings)
    lists: dict[str, Lists] = {}
    for split in splits:
        lists[split], wrong = read_lists(folder, split)
        findings += wrong
    files = _read(lists, progress)
    for split in splits:
        findings += _in_split(lists[split], files, info.class_set)
    findings += duplicates(
        Occurrence(split, entry.file, files.images[entry.file].digest, entry.listed)
        for split in splits
        for entry in lists[split].images
        if entry.file in files.images
    )
    measured = files.training.statistics() if files.training.pixels else None
    if measured and info.statistics and _all_read(lists["train"], files):
        findings += compare(folder, info.statistics, measured)
    frequencies = _frequencies(lists, files)
    table = _table(frequencies, info.class_set)
    if info.class_set:
        findings += class_count_findings(
            info.class_set.names,
            [entry.pixels for entry in table],
            folder.lists / "train_labels.txt",
        )
    elif table and sum(entry.pixels > 0 for entry in table) < 2:
        found = f"the training labels show {table[-1].name} alone"
        findings.append(too_few_classes(found, folder.lists / "train_labels.txt"))
    values = (value for seen in files.labels.values() for value in seen.pixels or ())
    return CheckReport(
        root=folder.root,
        splits={split: _summary(lists[split], files) for split in splits},
        statistics=measured,
        recorded=info.statistics,
        classes=table,
        class_weights=frequencies.weights(len(table)) if table else {},
        highest_label=max((value for value in values if value != IGNORED), default=None),
        class_count=len(info.class_set) if info.class_set else None,
        findings=in_order(findings),
    )


def _read(lists: Mapping[str, Lists], progress: Progress | None) -> Files:
    """Read each file once, however many lines name it."""
    training = {entry.file for entry in lists["train"].images} if "train" in lists else set()
    items = {
        DataFile(entry.file, label, sums=not label and entry.file in training): None
        for split in lists.values()
        for label, entries in ((False, split.images), (True, split.labels))
        for entry in entries
        if entry.file.is_file()
    }
    files = Files()
    for item, seen in read_file_infos(list(items), progress):
        if seen.moments:
            files.training = RunningStats.total([files.training, seen.moments])
        kept = files.labels if item.label else files.images
        kept[item.path] = replace(seen, moments=None)
    return files


def _all_read(lists: Lists, files: Files) -> bool:
    seen = [files.images.get(entry.file) for entry in lists.images]
    return all(image_info and image_info.size for image_info in seen)


def _in_split(lists: Lists, files: Files, class_set: ClassSet | None) -> Iterator[CheckFinding]:
    """Find what is wrong with the files of a split, and with each pair of them."""
    lines = {entry.file: entry.listed for entry in reversed([*lists.images, *lists.labels])}
    for finding in _of_files(lists, files, class_set):
        yield replace(finding, listed=lines[finding.file])
    for image, label in lists.pairs():
        image_info, label_info = files.images.get(image.file), files.labels.get(label.file)
        sizes = (label_info and label_info.size, image_info and image_info.size)
        if sizes[0] and sizes[1] and sizes[0] != sizes[1]:
            finding = size_finding(label.file, sizes[0], image.file, sizes[1])
            yield replace(finding, listed=label.listed)
        elif turned := orientation_finding(image.file, label.file):
            yield replace(turned, listed=image.listed)


def _of_files(lists: Lists, files: Files, class_set: ClassSet | None) -> Iterator[CheckFinding]:
    images = {entry.file: files.images.get(entry.file) for entry in lists.images}
    labels = {entry.file: files.labels.get(entry.file) for entry in lists.labels}
    for seen in (*images.values(), *labels.values()):
        if seen and seen.fault:
            yield seen.fault
    values = [(path, seen.pixels) for path, seen in labels.items() if seen and seen.pixels]
    yield from lossy_findings(labels)
    yield from value_findings(values, len(class_set) if class_set else None)


def _frequencies(lists: Mapping[str, Lists], files: Files) -> Frequencies:
    frequencies = Frequencies()
    training = lists["train"].labels if "train" in lists else ()
    for path in {entry.file for entry in training} & files.labels.keys():
        frequencies.add(files.labels[path].pixels or {})
    return frequencies


def _table(frequencies: Frequencies, class_set: ClassSet | None) -> list[ClassPixels]:
    """Make one entry a class, if there are training labels. Without names, numbers do."""
    highest = frequencies.highest()
    if highest is None:
        return []
    names = class_set.names if class_set else [f"class {n}" for n in range(highest + 1)]
    shares = frequencies.shares(len(names))
    return [
        ClassPixels(name, int(frequencies.pixels[n]), shares[n], int(frequencies.images[n]))
        for n, name in enumerate(names)
    ]


def _summary(lists: Lists, files: Files) -> SplitStats:
    seen = [files.images.get(entry.file) for entry in lists.images]
    smallest, largest = extremes(image_info.size for image_info in seen if image_info)
    return SplitStats(len(lists.images), len(lists.labels), smallest, largest)
