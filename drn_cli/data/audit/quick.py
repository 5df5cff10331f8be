"""The cheap part of the audit, before training: a bad label is told before the first step."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image

from drn_cli.data.audit.findings import Finding
from drn_cli.data.audit.labels import size_finding, value_findings
from drn_cli.data.audit.reading import Item, Size, look
from drn_cli.data.folders import Sample
from drn_cli.data.images import ORIENTATION
from drn_cli.data.silence import silence

HEADERS = 2000  # pairs whose headers are read
WHOLE = 32  # labels that are read whole
ENOUGH = 10  # findings after which the rest is as bad
THREADS = 8  # reading waits for the disk, decoding leaves the interpreter alone

MODES = frozenset({"1", "L", "P"})  # of label maps; those with more bits start with I
SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height

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
    with silence, ThreadPoolExecutor(THREADS) as pool:
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
        (image_size, _), (label_size, mode) = _header(image), _header(label)
        if image_size == label_size and (mode in MODES or mode.startswith("I")):
            return []
    except Exception:  # whatever it is, reading it whole will say it in better words
        pass
    whole = look(Item(image)), look(Item(label, label=True))
    sizes = [seen.size for seen in whole]
    findings = [seen.fault for seen in whole if seen.fault]
    if sizes[0] and sizes[1] and sizes[0] != sizes[1]:
        findings.append(size_finding(label, sizes[1], image, sizes[0]))
    return findings


def _header(path: Path) -> tuple[Size, str]:
    """Read a picture's upright size, and what Pillow calls its kind of pixels."""
    with Image.open(path) as image:
        # Asked for what its header does not have, a PNG would be decoded to the end.
        asked = image.format != "PNG" or "exif" in image.info
        sideways = asked and image.getexif().get(ORIENTATION) in SIDEWAYS
        width, height = image.size
        return (height, width) if sideways else (width, height), image.mode
