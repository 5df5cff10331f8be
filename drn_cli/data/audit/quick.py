"""The cheap part of the audit, before training: a bad label shows before the first step.

It takes seconds for any data folder: the ends and headers of files, the pixel counts that
preparation wrote into info.json, and a few labels that are read whole.
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

ENDS = 20_000  # files whose two ends are read, and
SUSPECTS = 64  # of those with another end than their format asks for, how many are read whole
HEADERS = 2000  # pairs whose headers are read
WHOLE = 32  # labels that are read whole
ENOUGH = 10  # findings after which the rest is as bad
THREADS = 8  # reading waits for the disk, decoding leaves the interpreter alone

Thing = TypeVar("Thing")


def quick_check(
    samples: Sequence[Sample],
    classes: int,
    *,
    names: Sequence[str] = (),
    counted: Sequence[int] | None = None,
    listed: Path | None = None,
) -> list[CheckFinding]:
    """Look at the ends and headers of many files and at the values of some labels.

    Args:
        samples: Of one split. Those without a label are left out.
        classes: How many classes the network has.
        names: Of the classes, if it is to be found out which of them training can learn.
        counted: Pixels of each class in all labels, if they were counted; otherwise the classes
            are judged only if so few labels are there that all of them are read.
        listed: The list of the labels, for what is wrong with all of them.

    Returns:
        What is wrong or odd; of a folder in which much is wrong, the beginning.
    """
    labelled = [(sample.image, sample.label) for sample in samples if sample.label]
    with ThreadPoolExecutor(THREADS) as pool:
        findings = _find_truncated(
            [
                *(DataFile(sample.image) for sample in samples),
                *(DataFile(label, label=True) for _, label in labelled),
            ],
            pool,
        )
        turned = []
        known = {finding.file for finding in findings}
        whole = [pair for pair in labelled if known.isdisjoint(pair)]
        for found in pool.map(_compare, spaced(whole, HEADERS)):
            turned += [finding for finding in found if finding.kind == "orientation"]
            findings += [finding for finding in found if finding.kind != "orientation"]
            if len(findings) >= ENOUGH:
                pool.shutdown(cancel_futures=True)
                return findings
        known = {finding.file for finding in findings}
        paths = [label for _, label in spaced(labelled, WHOLE) if label not in known]
        seen = list(pool.map(read_file_info, [DataFile(path, label=True) for path in paths]))
    if turned:
        message = first_and_count([finding.message for finding in turned])
        findings.append(replace(turned[0], message=message))
    findings += [one.fault for one in seen if one.fault]
    values = [(path, one.pixels) for path, one in zip(paths, seen, strict=True) if one.pixels]
    if counted is None and len(values) == len(labelled):
        total = sum((Counter(pixels) for _, pixels in values), Counter[int]())
        counted = [total[number] for number in range(classes)]
    findings += value_findings(values, classes)
    if names and counted and listed:
        findings += class_count_findings(names, counted, listed)
    return findings


def find_truncated(paths: Sequence[Path]) -> list[CheckFinding]:
    """Find images that end too early, by their last bytes; those that seem to are decoded."""
    with ThreadPoolExecutor(THREADS) as pool:
        return _find_truncated([DataFile(path) for path in paths], pool)


def _find_truncated(items: Sequence[DataFile], pool: Executor) -> list[CheckFinding]:
    chosen = spaced(items, ENDS)
    parts = [chosen[start :: THREADS * 4] for start in range(THREADS * 4)]
    suspects = [item for part in pool.map(_suspects, parts) for item in part]
    # Some programs write data of their own after the end, of all images then.
    faults = [one.fault for one in pool.map(read_file_info, spaced(suspects, SUSPECTS))]
    return [fault for fault in faults if fault]


def _suspects(items: Sequence[DataFile]) -> list[DataFile]:
    return [item for item in items if may_be_truncated(item.path)]


def spaced(things: Sequence[Thing], count: int) -> list[Thing]:
    """Choose `count` things at even distances, the first and the last among them; all if fewer."""
    if len(things) <= count:
        return list(things)
    return [things[n * (len(things) - 1) // (count - 1)] for n in range(count)]


def _compare(pair: tuple[Path, Path]) -> list[CheckFinding]:
    """Find what is wrong with a pair: read whole only if its headers say that something is."""
    image, label = pair
    try:
        first, second = read_header(image), read_header(label)
        if first.upright == second.upright and has_single_channel(second.mode):
            turned = orientation_mismatch(first, second)
            return [CheckFinding("warning", "orientation", turned, image)] if turned else []
    except DrnError:  # reading it whole says what is wrong with the pixels, too
        pass
    whole = read_file_info(DataFile(image)), read_file_info(DataFile(label, label=True))
    sizes = [seen.size for seen in whole]
    findings = [seen.fault for seen in whole if seen.fault]
    if sizes[0] and sizes[1] and sizes[0] != sizes[1]:
        findings.append(size_finding(label, sizes[1], image, sizes[0]))
    return findings
