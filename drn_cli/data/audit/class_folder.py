"""Auditing a class folder: every image of every class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.audit.duplicates import Occurrence, duplicates
from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.labels import ADD_FOLDER, too_few_classes
from drn_cli.data.audit.reading import DataFile, Size, read_file_infos
from drn_cli.data.audit.report import (
    CheckReport,
    ClassImages,
    ClassStats,
    SplitStats,
    extremes,
    in_order,
)
from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.file_search import SUBFOLDER, LeftOut, list_files, list_folders
from drn_cli.data.parallel import Progress, RunningStats

SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class Place:
    """What lies in a split's folder.

    Attributes:
        images: By the name of the class folder; classes without a folder have none.
        findings: What is wrong with the folders.
    """

    images: Mapping[str, Sequence[Path]]
    findings: Sequence[CheckFinding]


def check_class_folder(
    folder: FolderDataset, splits: Sequence[str], progress: Progress | None = None
) -> CheckReport:
    """Read every image once, with all cores, and collect what is wrong.

    Args:
        folder: The data folder.
        splits: Which to look at, training first.
        progress: Called with images read and images in all.
    """
    places = {split: _look_around(folder, split) for split in splits}
    findings = [finding for place in places.values() for finding in place.findings]
    if len(folder.names) < 2:
        findings.append(too_few_classes("has 1 class folder", folder.root / "train", ADD_FOLDER))
    items = [
        DataFile(path, sums=split == "train")
        for split, place in places.items()
        for paths in place.images.values()
        for path in paths
    ]
    total = RunningStats.total([])
    # There may be millions: of each image only this much is kept.
    occurrences: list[Occurrence] = []
    sizes: dict[str, set[Size | None]] = {split: set() for split in splits}
    for item, seen in read_file_infos(items, progress):
        split = item.path.relative_to(folder.root).parts[0]
        sizes[split].add(seen.size)
        if seen.fault:
            findings.append(seen.fault)
        else:
            occurrences.append(Occurrence(split, item.path, seen.digest))
        if seen.moments:
            total = RunningStats.total([total, seen.moments])
    findings += duplicates(occurrences)
    counts = {
        split: [len(place.images[name]) for name in folder.folders]
        for split, place in places.items()
    }
    return CheckReport(
        root=folder.root,
        splits={
            split: SplitStats(sum(n), 0, *extremes(sizes[split]), ClassStats.of(n))
            for split, n in counts.items()
        },
        statistics=total.statistics() if total.pixels else None,
        recorded=None,
        classes=[
            ClassImages(name, where, {split: n[number] for split, n in counts.items()})
            for number, (name, where) in enumerate(zip(folder.names, folder.folders, strict=True))
        ],
        class_weights={},
        highest_label=None,
        class_count=len(folder.folders),
        findings=in_order(findings),
    )


def _look_around(folder: FolderDataset, split: str) -> Place:
    place = folder.root / split
    if not place.is_dir():
        finding = CheckFinding("error", "class-folder", "no such folder; training needs it", place)
        return Place(dict.fromkeys(folder.folders, ()), [finding])
    left_out = LeftOut()
    images = {name: _images(place / name, left_out) for name in folder.folders}
    findings = list(_wrong_folders(place, images))
    if left_out.serious:
        findings.append(CheckFinding("warning", "left-out", str(left_out), place))
    else:
        left_out.log(place)
    return Place(images, findings)


def _wrong_folders(place: Path, images: Mapping[str, Sequence[Path]]) -> Iterator[CheckFinding]:
    loose = _images(place, LeftOut())
    if loose:
        yield CheckFinding(
            "error",
            "class-folder",
            f"holds {len(loose)} images in no class folder, {loose[0].name} for instance",
            place,
            "put each into the folder of its class",
        )
    for name in list_folders(place):
        if name not in images:
            message = "is the folder of no class"
            hint = "classes are the folders in train/, or those that info.json names"
            yield CheckFinding("error", "class-folder", message, place / name, hint)
    for name, paths in images.items():
        if not paths:
            message = "has no images" if (place / name).is_dir() else "is missing"
            yield CheckFinding("warning", "class-folder", message, place / name)


def _images(place: Path, left_out: LeftOut) -> list[Path]:
    return [place / name for name in list_files(place, left_out, below=SUBFOLDER)]
