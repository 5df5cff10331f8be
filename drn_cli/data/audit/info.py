"""info.json of a list folder: what can be used of it, and what is wrong with the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.classes import ClassSet, generic
from drn_cli.data.folders import ChannelStats, ListDataset
from drn_cli.errors import DrnError
from drn_cli.files import read_json

TOLERANCE = 0.01  # of mean and std in 0..1: less is rounding, or a few images more


@dataclass(frozen=True, slots=True)
class Info:
    """What a list folder says of itself.

    Attributes:
        statistics: Mean and std; None if they are missing or no good.
        class_set: None if nobody says how many classes there are.
        findings: What is wrong.
    """

    statistics: ChannelStats | None
    class_set: ClassSet | None
    findings: Sequence[CheckFinding]


def read_info(folder: ListDataset, classes: int | None) -> Info:
    """Read info.json.

    Args:
        folder: The data folder.
        classes: How many there are, if the user knows; otherwise as many as info.json names.
    """
    path = folder.lists / "info.json"
    fallback = generic(classes) if classes else None
    try:
        statistics = folder.statistics()
        findings = []
    except DrnError as error:
        statistics, findings = None, [CheckFinding.of("info", error, path)]
    try:
        names, colours = _named(folder)
    except DrnError:  # it was told above
        return Info(statistics, fallback, findings)
    if classes and names and classes != names:
        message = f"names {names} classes, not {classes}"
        hint = f"train with data.classes={names}, or correct the names"
        # Names without colours are not used.
        findings.append(
            CheckFinding("error" if colours else "warning", "info", message, path, hint)
        )
        return Info(statistics, fallback, findings)
    if names and colours and names != colours:
        message = f"names {names} classes and {colours} colours"
        findings.append(CheckFinding("error", "info", message, path))
        return Info(statistics, generic(names), findings)
    count = classes or names
    try:
        return Info(statistics, folder.class_set(count) if count else None, findings)
    except DrnError as error:
        findings.append(CheckFinding.of("info", error, path))
        return Info(statistics, generic(count) if count else None, findings)


def _named(folder: ListDataset) -> tuple[int | None, int | None]:
    """Count the names and the colours of classes; None where there are none.

    Raises:
        DrnError: The file cannot be used at all.
    """
    path = folder.lists / "info.json"
    info: Any = read_json(path) if path.is_file() else {}
    if not isinstance(info, dict):
        raise DrnError(f"{path}: should hold an object with mean and std")
    names, colours = info.get("classes"), info.get("colours")
    return (
        len(names) if isinstance(names, list) else None,
        len(colours) if isinstance(colours, list) else None,
    )


def compare(
    folder: ListDataset, recorded: ChannelStats, measured: ChannelStats
) -> list[CheckFinding]:
    """Warn where info.json has another mean or std than its training images."""
    findings = []
    for name in ("mean", "std"):
        said, true = getattr(recorded, name), getattr(measured, name)
        if max(abs(a - b) for a, b in zip(said, true, strict=True)) > TOLERANCE:
            shown = [", ".join(f"{number:.4f}" for number in values) for values in (said, true)]
            message = f"says {name} {shown[0]}; the training images have {shown[1]}"
            hint = f'write "{name}": [{", ".join(f"{number:.6f}" for number in true)}]'
            path = folder.lists / "info.json"
            findings.append(CheckFinding("warning", "statistics", message, path, hint))
    return findings
