"""What was measured as a JSON document, and beside what such a document says of earlier."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.bench.measuring import Row
from drn_cli.bench.subject import Subject
from drn_cli.environment import MachineInfo
from drn_cli.errors import DrnError
from drn_cli.files import read_json

# What two rows have in common that are compared.
SAME = ("what", "runtime", "precision", "compiled", "batch", "height", "width", "workers")
NETWORK = ("arch", "width", "task", "classes")

FORMAT = "drn bench 1"  # what `format` says in a document of this kind


def to_json(subject: Subject, machine: MachineInfo, rows: Sequence[Row]) -> dict[str, Any]:
    """Give all that was measured: what `read_earlier` reads."""
    return {
        "format": FORMAT,
        "source": subject.name,
        "verified": subject.verified,
        "arch": subject.arch.name,
        "width": subject.arch.width,
        "task": subject.task,
        "classes": subject.classes,
        "parameters": subject.parameters,
        "machine": machine.to_json(),
        "results": [row.to_json() for row in rows],
    }


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier document.

    Attributes:
        medians: Seconds of each row that was measured, by what it was a measurement of.
        network: Architecture, width, task and classes.
        machine: What it was measured on.
    """

    medians: dict[tuple[Any, ...], float]
    network: dict[str, Any]
    machine: dict[str, Any]

    def median(self, row: dict[str, Any]) -> float | None:
        """Give the seconds of the row like this one, if there is one."""
        return self.medians.get(_key(row))

    def differences(self, document: dict[str, Any]) -> list[str]:
        """List, for people, what else differs from a document of now: network and machine."""
        pairs = [(name, self.network[name], document[name]) for name in NETWORK]
        pairs += [
            (name, self.machine.get(name), value) for name, value in document["machine"].items()
        ]
        return [f"{name} was {then}, is {now}" for name, then, now in pairs if then != now]


def read_earlier(path: Path) -> Earlier:
    """Read what `drn bench` wrote.

    Raises:
        DrnError: It cannot be read, or is something else.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DrnError(
            f"{path}: was not written by this `drn bench`", "give what --out or --json wrote"
        )
    try:
        medians = {
            _key(row): float(row["seconds"]["p50"])
            for row in found["results"]
            if row["seconds"] is not None
        }
        known = {"width": 1.0} | found  # older documents have no width
        return Earlier(medians, {name: known[name] for name in NETWORK}, dict(found["machine"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DrnError(f"{path}: is damaged: {error}", "measure again") from error


def compare(document: dict[str, Any], earlier: Earlier) -> dict[str, Any]:
    """Add to each row the earlier median in seconds, and how many times as fast it is now.

    Beside the rows stands what else differs, in words.
    """
    compared = []
    for row in document["results"]:
        then, now = earlier.median(row), row["seconds"]
        speed = None if then is None or now is None else then / now["p50"]
        compared.append({**row, "earlier": then, "speed": speed})
    return {**document, "differences": earlier.differences(document), "results": compared}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in SAME)
