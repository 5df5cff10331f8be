"""Check of a class folder: each image of each class."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from drn_cli.data.audit.duplicates import ImageDigest, find_duplicates
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


def check_class_folder(
    folder: FolderDataset, splits: Sequence[str], progress: Progress | None = None
) -> CheckReport:
    """Read each image once, on all cores, and collect problems.

    Args:
        folder: The data folder.
        splits: Splits to check, training first.
        progress: Called with images read and total.
    """
    findings: list[CheckFinding] = []
    images = {split: _list_images(folder, split, findings) for split in splits}
    if len(folder.names) < 2:
        findings.append(too_few_classes("has 1 class folder", folder.root / "train", ADD_FOLDER))
    files = [
        DataFile(path, sums=split == "train")
        for split, by_class in images.items()
        for paths in by_class.values()
        for path in paths
    ]
    total = RunningStats.total([])
    # There may be millions of images, so only this much of each is kept.
    digests: list[ImageDigest] = []
    sizes: dict[str, set[Size | None]] = {split: set() for split in splits}
    for file, info in read_file_infos(files, progress):
        split = file.path.relative_to(folder.root).parts[0]
        sizes[split].add(info.size)
        if info.fault:
            findings.append(info.fault)
        else:
            digests.append(ImageDigest(split, file.path, info.digest))
        if info.sums:
            total = RunningStats.total([total, info.sums])
    findings += find_duplicates(digests)
    counts = {
        split: [len(by_class[name]) for name in folder.folders]
        for split, by_class in images.items()
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


def _list_images(
    folder: FolderDataset, split: str, findings: list[CheckFinding]
) -> Mapping[str, Sequence[Path]]:
    """List the images of a split by class folder, and add problems of its folders to `findings`."""
    place = folder.root / split
    if not place.is_dir():
        message = "missing folder, required for training"
        findings.append(CheckFinding("error", "class-folder", message, place))
        return dict.fromkeys(folder.folders, ())
    left_out = LeftOut()
    images = {name: _images(place / name, left_out) for name in folder.folders}
    findings += _check_folders(place, images)
    if left_out.serious:
        findings.append(CheckFinding("warning", "left-out", str(left_out), place))
    else:
        left_out.log(place)
    return images


def _check_folders(place: Path, images: Mapping[str, Sequence[Path]]) -> Iterator[CheckFinding]:
    outside = _images(place, LeftOut())
    if outside:
        yield CheckFinding(
            "error",
            "class-folder",
            f"contains {len(outside)} images outside class folders, such as {outside[0].name}",
            place,
            "move each into the folder of its class",
        )
    for name in list_folders(place):
        if name not in images:
            message = "is not the folder of a known class"
            hint = "classes are the folders in train/, or those that info.json lists"
            yield CheckFinding("error", "class-folder", message, place / name, hint)
    for name, paths in images.items():
        if not paths:
            message = "has no images" if (place / name).is_dir() else "is missing"
            yield CheckFinding("warning", "class-folder", message, place / name)


def _images(place: Path, left_out: LeftOut) -> list[Path]:
    return [place / name for name in list_files(place, left_out, below=SUBFOLDER)]
