"""Quick checks before training, so that bad files are found before the first step.

They take seconds for any data folder: they read the ends and headers of files, the pixel counts in
info.json, and a few whole labels.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.labels import class_count_findings, size_finding, value_findings
from drn_cli.data.audit.reading import DataFile, read_file_info
from drn_cli.data.file_ends import may_be_truncated
from drn_cli.data.folders import Sample
from drn_cli.data.images import has_single_channel, read_header
from drn_cli.data.orientation import first_and_count, orientation_mismatch
from drn_cli.errors import DrnError

ENDS = 20_000  # files whose ends are read
SUSPECTS = 64  # files without the end of their format that are decoded
HEADERS = 2000  # pairs whose headers are read
WHOLE = 32  # labels that are decoded
ENOUGH = 10  # findings after which the check stops
THREADS = 8  # reading waits for the disk, and decoding releases the GIL

Item = TypeVar("Item")


def quick_check(
    samples: Sequence[Sample],
    classes: int,
    *,
    names: Sequence[str] = (),
    counted: Sequence[int] | None = None,
    listed: Path | None = None,
) -> list[CheckFinding]:
    """Check the ends and headers of many files, and the values of some labels.

    Args:
        samples: Samples of one split; labels may be missing.
        classes: Number of classes.
        names: Class names, to find classes without pixels.
        counted: Pixels of each class in all labels, if known; otherwise they are counted if there
            are few enough labels to read all.
        listed: The list of the labels, for findings about all of them.

    Returns:
        Findings, at most a few more than `ENOUGH`.
    """
    labelled = [(sample.image, sample.label) for sample in samples if sample.label]
    files = [DataFile(sample.image) for sample in samples]
    files += [DataFile(label, label=True) for _, label in labelled]
    with ThreadPoolExecutor(THREADS) as pool:
        findings = _find_truncated(files, pool)
        rotated = []
        known = {finding.file for finding in findings}
        intact = [pair for pair in labelled if known.isdisjoint(pair)]
        for found in pool.map(_compare, spaced(intact, HEADERS)):
            rotated += [finding for finding in found if finding.kind == "orientation"]
            findings += [finding for finding in found if finding.kind != "orientation"]
            if len(findings) >= ENOUGH:
                pool.shutdown(cancel_futures=True)
                return findings
        known = {finding.file for finding in findings}
        paths = [label for _, label in spaced(labelled, WHOLE) if label not in known]
        infos = list(pool.map(read_file_info, [DataFile(path, label=True) for path in paths]))
    if rotated:
        message = first_and_count([finding.message for finding in rotated])
        findings.append(replace(rotated[0], message=message))
    findings += [info.fault for info in infos if info.fault]
    values = [(path, info.pixels) for path, info in zip(paths, infos, strict=True) if info.pixels]
    if counted is None and len(values) == len(labelled):
        total = sum((Counter(pixels) for _, pixels in values), Counter[int]())
        counted = [total[number] for number in range(classes)]
    findings += value_findings(values, classes)
    if names and counted and listed:
        findings += class_count_findings(names, counted, listed)
    return findings


def find_truncated(paths: Sequence[Path]) -> list[CheckFinding]:
    """Find truncated images by their last bytes; suspects are decoded."""
    with ThreadPoolExecutor(THREADS) as pool:
        return _find_truncated([DataFile(path) for path in paths], pool)


def _find_truncated(files: Sequence[DataFile], pool: Executor) -> list[CheckFinding]:
    chosen = spaced(files, ENDS)
    parts = [chosen[start :: THREADS * 4] for start in range(THREADS * 4)]  # few, large tasks
    tasks = pool.map(lambda part: [file for file in part if may_be_truncated(file.path)], parts)
    suspects = [file for found in tasks for file in found]
    # Programs that append private data do so to all images, so only some suspects are decoded.
    infos = pool.map(read_file_info, spaced(suspects, SUSPECTS))
    return [info.fault for info in infos if info.fault]


def spaced(items: Sequence[Item], count: int) -> list[Item]:
    """Return `count` evenly spaced items, including the first and the last; all if fewer."""
    if len(items) <= count:
        return list(items)
    return [items[n * (len(items) - 1) // (count - 1)] for n in range(count)]


def _compare(pair: tuple[Path, Path]) -> list[CheckFinding]:
    """Compare the headers of a pair; the pixels are read only if the headers show a problem."""
    image, label = pair
    try:
        first, second = read_header(image), read_header(label)
        if first.upright == second.upright and has_single_channel(second.mode):
            problem = orientation_mismatch(first, second)
            return [CheckFinding("warning", "orientation", problem, image)] if problem else []
    except DrnError:  # reading the pixels gives a more precise error
        pass
    infos = read_file_info(DataFile(image)), read_file_info(DataFile(label, label=True))
    sizes = [info.size for info in infos]
    findings = [info.fault for info in infos if info.fault]
    if sizes[0] and sizes[1] and sizes[0] != sizes[1]:
        findings.append(size_finding(label, sizes[1], image, sizes[0]))
    return findings
