"""The cheap part of the audit, before training: a bad label is told before the first step."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from drn_cli.data.audit.findings import Finding
from drn_cli.data.audit.labels import size_finding, value_findings
from drn_cli.data.audit.reading import Item, look
from drn_cli.data.folders import Sample
from drn_cli.data.images import holds_values, read_header
from drn_cli.errors import DrnError

HEADERS = 2000  # pairs whose headers are read
WHOLE = 32  # labels that are read whole
ENOUGH = 10  # findings after which the rest is as bad
THREADS = 8  # reading waits for the disk, decoding leaves the interpreter alone


Thing = TypeVar("Thing")


def quick(samples: Sequence[Sample], classes: int) -> list[Finding]:
    """Look at the headers of many samples and at the values of some labels.

    Args:
        samples: Of one split. Those without a label are left out.
        classes: How many classes the network has.

    Returns:
        What is wrong or odd; of a folder in which much is wrong, the beginning.
    """
    labelled = [(sample.image, sample.label) for sample in samples if sample.label]
    findings: list[Finding] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(_compare, evenly(labelled, HEADERS)):
            findings += found
            if len(findings) >= ENOUGH:
                pool.shutdown(cancel_futures=True)
                return findings
        told = {finding.file for finding in findings}
        paths = [label for _, label in evenly(labelled, WHOLE) if label not in told]
        seen = list(pool.map(look, [Item(path, label=True) for path in paths]))
    findings += [one.fault for one in seen if one.fault]
    values = [(path, one.pixels) for path, one in zip(paths, seen, strict=True) if one.pixels]
    return findings + value_findings(values, classes)


def evenly(things: Sequence[Thing], count: int) -> list[Thing]:
    """Choose `count` things at even distances, the first and the last among them; all if fewer."""
    if len(things) <= count:
        return list(things)
    return [things[n * (len(things) - 1) // (count - 1)] for n in range(count)]


def _compare(pair: tuple[Path, Path]) -> list[Finding]:
    """Find what is wrong with a pair: read whole only if its headers say that something is."""
    image, label = pair
    try:
        first, second = read_header(image), read_header(label)
        if first.upright == second.upright and holds_values(second.mode):
            return []
    except DrnError:  # reading it whole says what is wrong with the pixels, too
        pass
    whole = look(Item(image)), look(Item(label, label=True))
    sizes = [seen.size for seen in whole]
    findings = [seen.fault for seen in whole if seen.fault]
    if sizes[0] and sizes[1] and sizes[0] != sizes[1]:
        findings.append(size_finding(label, sizes[1], image, sizes[0]))
    return findings
