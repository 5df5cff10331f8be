"""All the checks, in order; the one place where a check may fail without ending the rest."""

import os
from collections.abc import Callable, Iterable

from drn_cli.doctor import extras, machine, mirrors, processes, software, terminal, weights
from drn_cli.doctor.finding import Finding, in_a_line
from drn_cli.errors import DrnError

Look = Callable[[], Finding | Iterable[Finding]]
Check = tuple[str, Look]

CHECKS: tuple[Check, ...] = (
    ("Python", software.python),
    ("torch", software.torch),
    ("torchvision", software.torchvision),
    ("packages", software.packages),
    ("CUDA", software.cuda),
    ("GPUs", machine.gpus),
    ("cores", machine.cores),
    ("memory", machine.memory),
    ("shared memory", machine.shared_memory),
    ("disk", machine.disk),
    ("open files", machine.open_files),
    ("ports", machine.ports),
    ("host name", machine.host_name),
    ("gloo", processes.gloo),
    ("NCCL", processes.nccl),
    ("cache folder", weights.cache),
    ("weights", weights.at_hand),
)
ONLINE: tuple[Check, ...] = (("mirrors", mirrors.reachable),)
LAST: tuple[Check, ...] = (("extras", extras.installed), ("terminal", terminal.terminal))


def examine(name: str, look: Look) -> list[Finding]:
    """Make a check. What it did not expect becomes a finding; with --debug it is raised."""
    try:
        found = look()
        return [found] if isinstance(found, Finding) else list(found)
    except DrnError as error:
        return [Finding(name, "failure", error.message, error.hint)]
    except Exception as error:
        if os.environ.get("DRN_DEBUG"):
            raise
        problem = f"could not be checked: {type(error).__name__}: {in_a_line(error)}"
        return [Finding(name, "failure", problem, "drn --debug doctor shows where")]


def checks(*, offline: bool = False) -> tuple[Check, ...]:
    """List the checks; `offline` leaves out the one that asks other machines."""
    return CHECKS + (() if offline else ONLINE) + LAST
