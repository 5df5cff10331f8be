"""Check of the info.json of a list folder."""

from collections.abc import Sequence
from dataclasses import dataclass

from drn_cli.data.audit.findings import CheckFinding, Severity
from drn_cli.data.classes import ClassSet, generic
from drn_cli.data.folders import ChannelStats, ListDataset, read_info
from drn_cli.errors import DrnError

TOLERANCE = 0.01  # of mean and std in 0..1: rounding, or a few added images


@dataclass(frozen=True, slots=True)
class Info:
    """Content of info.json."""

    statistics: ChannelStats | None  # None if they are missing or invalid
    class_set: ClassSet | None  # None if the number of classes is unknown
    findings: Sequence[CheckFinding]


def check_info(folder: ListDataset, classes: int | None) -> Info:
    """Read and check info.json.

    Args:
        folder: The data folder.
        classes: Number of classes given by the user; by default that of info.json.
    """
    path = folder.lists / "info.json"
    fallback = generic(classes) if classes else None
    try:
        statistics = folder.statistics()
        findings = []
    except DrnError as error:
        statistics, findings = None, [CheckFinding.of("info", error, path)]
    try:
        info = read_info(folder.lists)
    except DrnError:  # reported above
        return Info(statistics, fallback, findings)
    lists = [info.get(key) for key in ("classes", "colours")]
    names, colours = (len(entries) if isinstance(entries, list) else None for entries in lists)
    if classes and names and classes != names:
        message = f"has {names} classes, expected {classes}"
        hint = f"train with data.classes={names}, or correct the names"
        severity: Severity = "error" if colours else "warning"  # names alone are not used
        findings.append(CheckFinding(severity, "info", message, path, hint))
        return Info(statistics, fallback, findings)
    if names and colours and names != colours:
        message = f"has {names} classes and {colours} colours"
        findings.append(CheckFinding("error", "info", message, path))
        return Info(statistics, generic(names), findings)
    count = classes or names
    try:
        return Info(statistics, folder.class_set(count) if count else None, findings)
    except DrnError as error:
        findings.append(CheckFinding.of("info", error, path))
        return Info(statistics, generic(count) if count else None, findings)


def compare_statistics(
    folder: ListDataset, recorded: ChannelStats, measured: ChannelStats
) -> list[CheckFinding]:
    """Warn if mean or std in info.json differ from those of the training images."""
    findings = []
    for name in ("mean", "std"):
        stated, true = getattr(recorded, name), getattr(measured, name)
        if max(abs(a - b) for a, b in zip(stated, true, strict=True)) > TOLERANCE:
            shown = [", ".join(f"{number:.4f}" for number in values) for values in (stated, true)]
            message = f"{name} is {shown[0]}; that of the training images is {shown[1]}"
            hint = f'write "{name}": [{", ".join(f"{number:.6f}" for number in true)}]'
            path = folder.lists / "info.json"
            findings.append(CheckFinding("warning", "statistics", message, path, hint))
    return findings
