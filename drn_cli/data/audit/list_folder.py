"""Check of a list folder: images, label maps, and both together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from drn_cli.data.audit.duplicates import ImageDigest, find_duplicates
from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.frequencies import Frequencies
from drn_cli.data.audit.info import check_info, compare_statistics
from drn_cli.data.audit.labels import (
    class_count_findings,
    lossy_findings,
    size_finding,
    too_few_classes,
    value_findings,
)
from drn_cli.data.audit.lists import Lists, read_lists
from drn_cli.data.audit.reading import DataFile, FileInfo, read_file_infos
from drn_cli.data.audit.report import CheckReport, ClassPixels, SplitStats, extremes, in_order
from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.folders import ListDataset
from drn_cli.data.orientation import find_orientation_mismatch
from drn_cli.data.parallel import Progress, RunningStats


@dataclass(slots=True)
class Files:
    """Information on existing files by path, and sums over the training images."""

    images: dict[Path, FileInfo] = field(default_factory=dict)
    labels: dict[Path, FileInfo] = field(default_factory=dict)
    training: RunningStats = field(default_factory=lambda: RunningStats.total([]))


def check_list_folder(
    folder: ListDataset,
    splits: Sequence[str],
    classes: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Read each listed file once, on all cores, and collect problems.

    Args:
        folder: The data folder.
        splits: Splits to check, training first.
        classes: Number of classes; by default that of info.json. If it is unknown, label values are
            counted but not checked.
        progress: Called with files read and total.
    """
    info = check_info(folder, classes)
    findings = list(info.findings)
    lists = {"train": Lists((), ())}  # replaced if it is one of the splits
    for split in splits:
        lists[split], wrong = read_lists(folder, split)
        findings += wrong
    files = _read(lists, progress)
    stats = {}
    for split in splits:
        images, labels = lists[split].images, lists[split].labels
        sizes = [files.images[entry.file].size for entry in images if entry.file in files.images]
        stats[split] = SplitStats(len(images), len(labels), *extremes(sizes))
        findings += _check_split(lists[split], files, info.class_set)
    findings += find_duplicates(
        ImageDigest(split, entry.file, files.images[entry.file].digest, entry.listed)
        for split in splits
        for entry in lists[split].images
        if entry.file in files.images
    )
    measured = files.training.statistics() if files.training.pixels else None
    train_images = [files.images.get(entry.file) for entry in lists["train"].images]
    if measured and info.statistics and all(image and image.size for image in train_images):
        findings += compare_statistics(folder, info.statistics, measured)
    frequencies = Frequencies()
    for path in {entry.file for entry in lists["train"].labels} & files.labels.keys():
        frequencies.add(files.labels[path].pixels or {})
    table = _table(frequencies, info.class_set)
    train_labels = folder.lists / "train_labels.txt"
    if info.class_set:
        pixels = [entry.pixels for entry in table]
        findings += class_count_findings(info.class_set.names, pixels, train_labels)
    elif table and sum(entry.pixels > 0 for entry in table) < 2:
        found = f"the training labels contain only {table[-1].name}"
        findings.append(too_few_classes(found, train_labels))
    values = (value for found in files.labels.values() for value in found.pixels or ())
    return CheckReport(
        root=folder.root,
        splits=stats,
        statistics=measured,
        recorded=info.statistics,
        classes=table,
        class_weights=frequencies.weights(len(table)) if table else {},
        highest_label=max((value for value in values if value != IGNORED), default=None),
        class_count=len(info.class_set) if info.class_set else None,
        findings=in_order(findings),
    )


def _read(lists: Mapping[str, Lists], progress: Progress | None) -> Files:
    """Read each file once, even if it is listed repeatedly."""
    training = {entry.file for entry in lists["train"].images}
    unique = {
        DataFile(entry.file, label, sums=not label and entry.file in training): None
        for split in lists.values()
        for label, entries in ((False, split.images), (True, split.labels))
        for entry in entries
        if entry.file.is_file()
    }
    files = Files()
    for data_file, file_info in read_file_infos(list(unique), progress):
        if file_info.sums:
            files.training = RunningStats.total([files.training, file_info.sums])
        infos = files.labels if data_file.label else files.images
        infos[data_file.path] = replace(file_info, sums=None)
    return files


def _check_split(lists: Lists, files: Files, class_set: ClassSet | None) -> Iterator[CheckFinding]:
    """Yield the findings of a split: for each file, and for each pair."""
    lines = {entry.file: entry.listed for entry in reversed([*lists.images, *lists.labels])}
    for finding in _check_files(lists, files, class_set):
        yield replace(finding, listed=lines[finding.file])
    for image, label in lists.pairs():
        image_info, label_info = files.images.get(image.file), files.labels.get(label.file)
        sizes = (label_info and label_info.size, image_info and image_info.size)
        if sizes[0] and sizes[1] and sizes[0] != sizes[1]:
            finding = size_finding(label.file, sizes[0], image.file, sizes[1])
            yield replace(finding, listed=label.listed)
        elif problem := find_orientation_mismatch(image.file, label.file):
            kind = "orientation"
            yield CheckFinding("warning", kind, problem, image.file, listed=image.listed)


def _check_files(lists: Lists, files: Files, class_set: ClassSet | None) -> Iterator[CheckFinding]:
    image_infos = {entry.file: files.images.get(entry.file) for entry in lists.images}
    label_infos = {entry.file: files.labels.get(entry.file) for entry in lists.labels}
    for file_info in (*image_infos.values(), *label_infos.values()):
        if file_info and file_info.fault:
            yield file_info.fault
    pixel_counts = [
        (path, each.pixels) for path, each in label_infos.items() if each and each.pixels
    ]
    yield from lossy_findings(label_infos)
    yield from value_findings(pixel_counts, len(class_set) if class_set else None)


def _table(frequencies: Frequencies, class_set: ClassSet | None) -> list[ClassPixels]:
    """Return one entry per class, if there are training labels; names default to numbers."""
    highest = frequencies.highest()
    if highest is None:
        return []
    names = class_set.names if class_set else [f"class {n}" for n in range(highest + 1)]
    shares = frequencies.shares(len(names))
    return [
        ClassPixels(name, int(frequencies.pixels[n]), shares[n], int(frequencies.images[n]))
        for n, name in enumerate(names)
    ]
