"""SLURM: run the tasks of one `srun` as the processes of one job."""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drn_cli.errors import DrnError, started_by_torchrun

# Below Linux's ephemeral ports, which start at 32768.
FIRST_PORT, PORTS = 10000, 20000

log = logging.getLogger(__name__)


def slurm_tasks() -> int:
    """Return the number of tasks in this SLURM step, 1 outside of SLURM."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def init_from_slurm() -> None:
    """Set torch's rendezvous variables (RANK, MASTER_ADDR, ...) from those of SLURM.

    The rendezvous host is the node of the first task; the port is computed from the job id and the
    step id. MASTER_ADDR and MASTER_PORT are kept if they are set. Does nothing outside of an `srun`
    with several tasks, and in processes that torchrun started.

    Raises:
        DrnError: A variable of SLURM is missing. Without it, each task would do the whole work.
    """
    if slurm_tasks() == 1 or started_by_torchrun():
        return
    node = int(_variable("SLURM_NODEID"))
    local_world = tasks_per_node(_variable("SLURM_STEP_TASKS_PER_NODE"))
    hosts = host_names(_variable("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    step = int(_variable("SLURM_STEP_ID"))
    # 1009 is coprime to PORTS, so that neighboring jobs rarely share a port.
    port = FIRST_PORT + (int(_variable("SLURM_JOB_ID")) * 1009 + step) % PORTS
    os.environ |= {
        "RANK": _variable("SLURM_PROCID"),
        "WORLD_SIZE": _variable("SLURM_STEP_NUM_TASKS"),
        "LOCAL_RANK": _variable("SLURM_LOCALID"),
        "LOCAL_WORLD_SIZE": str(local_world[node]),
    }
    os.environ.setdefault("MASTER_ADDR", hosts[0])
    os.environ.setdefault("MASTER_PORT", str(port))


def host_names(nodes: str) -> list[str]:
    """Expand a SLURM node list: `node[03-05,9],gpu1`.

    Raises:
        DrnError: The list is malformed.
    """
    found = re.findall(r"((?:[^,\[\]]|\[[^\[\]]*\])+)(?:,|$)", nodes)
    if not nodes or ",".join(found) != nodes:
        raise DrnError(f"{nodes!r}: not a SLURM node list")
    return [name for part in found for name in _expand(part)]


def tasks_per_node(counts: str) -> list[int]:
    """Expand SLURM's task counts: `4(x2),3` is 4, 4, 3."""
    return [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
        for _ in range(int(times or 1))
    ]


def _expand(part: str) -> list[str]:
    """Expand the brackets of one name: `rack[1-2]n[1,3]`."""
    found = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if found is None:
        return [part]
    head, numbers, tail = found.groups()
    tails = _expand(tail)
    return [head + number + rest for number in _expand_numbers(numbers) for rest in tails]


def _expand_numbers(text: str) -> list[str]:
    """Expand `003-005,9` with leading zeros."""
    numbers: list[str] = []
    for span in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", span)
        if found is None:
            raise DrnError(f"{text!r}: not a range of nodes in a SLURM node list")
        first, last = found[1], found[2] or found[1]
        numbers += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return numbers


def _variable(*names: str) -> str:
    """Return the value of the first environment variable that is set."""
    for name in names:
        if value := os.environ.get(name):
            return value
    tasks = os.environ["SLURM_STEP_NUM_TASKS"]
    raise DrnError(
        f"srun started {tasks} tasks, but {names[0]} is not set",
        "start the processes with --gpus or torchrun",
    )


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class ExpectedProcesses:
    """The processes that the environment variables of this one make it wait for."""

    text: str  # number of processes, address, and the variable that is the reason
    remedy: str  # how to run without them
    by_agent: bool  # whether torchrun's variables are set, too: its agent has started the others


def expected_processes() -> ExpectedProcesses | None:
    """Return the processes that this one will wait for; None if it runs alone.

    The variables may be left over from another job, or come from the shell of a SLURM allocation.

    Raises:
        DrnError: Some of the variables are missing or no numbers.
    """
    by_agent, tasks = "TORCHELASTIC_RUN_ID" in os.environ, slurm_tasks()
    by_slurm = (
        not by_agent
        and tasks > 1
        and os.environ.get("RANK") in (None, os.environ.get("SLURM_PROCID"))
    )
    if by_slurm:
        init_from_slurm()
    elif not started_by_torchrun():
        return None
    present = [name for name in VARIABLES if name in os.environ]
    unset = "unset " + " ".join(["SLURM_STEP_NUM_TASKS"] * by_slurm + present)
    remedy = f"to run without them: `{unset}`, and start again"
    rank, world, port = (_number(name, unset) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not os.environ.get("MASTER_ADDR"):
        raise DrnError(f"WORLD_SIZE={world} is set, but not MASTER_ADDR", remedy)
    if world == 1:
        return None
    place = f"{os.environ['MASTER_ADDR']}:{port}"
    reason = f"SLURM_STEP_NUM_TASKS={tasks}" if by_slurm else f"WORLD_SIZE={world}"
    others = f"{world - 1} more process{'es' if world > 2 else ''}" if rank == 0 else "rank 0"
    text = f"waiting for {others} at {place} because {reason} is set"
    return ExpectedProcesses(text, remedy, by_agent)


def _number(name: str, unset: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        problem = f"is {text!r}, not a number" if text else "is not set"
        raise DrnError(
            f"RANK and WORLD_SIZE are set, but {name} {problem}",
            f"to run in a single process: `{unset}`; to start several: --gpus N",
        )
    return int(text)


@contextmanager
def log_waiting(expected: ExpectedProcesses | None, remind: float = 60.0) -> Iterator[None]:
    """Log which processes are awaited, and how to run without them if that takes long.

    Args:
        expected: Result of `expected_processes`. The first line is omitted under torchrun's agent,
            which has started the others.
        remind: Seconds until a warning names the remedy.
    """
    if expected is None:
        yield
        return
    # One line per SLURM step, not one per task.
    if not expected.by_agent and (os.environ["RANK"] == "0" or slurm_tasks() == 1):
        log.info("%s", expected.text)
    late = threading.Timer(
        remind, lambda: log.warning("still %s; %s", expected.text, expected.remedy)
    )
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
