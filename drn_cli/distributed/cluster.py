"""SLURM: the tasks of one `srun` become the processes of one job."""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drn_cli.errors import DrnError, started_by_torchrun

# Below the ports that Linux gives to outgoing connections, which start at 32768.
FIRST_PORT, PORTS = 10000, 20000

log = logging.getLogger(__name__)


def slurm_tasks() -> int:
    """Give the number of tasks that `srun` started together with this process; alone, 1."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def init_from_slurm() -> None:
    """Under `srun` with several tasks, set the variables by which torchrun's processes meet.

    The first task's machine is where they meet, at a port made of the numbers of the job and its
    step. MASTER_ADDR and MASTER_PORT that are set already stay. Elsewhere, nothing happens.

    Raises:
        DrnError: SLURM does not say all that is needed. To go on would let each task do the
            whole work.
    """
    if slurm_tasks() == 1 or started_by_torchrun():
        return
    node = int(_told("SLURM_NODEID"))
    local_world = tasks_per_node(_told("SLURM_STEP_TASKS_PER_NODE"))
    hosts = host_names(_told("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    step = int(_told("SLURM_STEP_ID"))
    # Prime to the number of ports, so that jobs of other numbers seldom share one.
    port = FIRST_PORT + (int(_told("SLURM_JOB_ID")) * 1009 + step) % PORTS
    os.environ |= {
        "RANK": _told("SLURM_PROCID"),
        "WORLD_SIZE": _told("SLURM_STEP_NUM_TASKS"),
        "LOCAL_RANK": _told("SLURM_LOCALID"),
        "LOCAL_WORLD_SIZE": str(local_world[node]),
    }
    os.environ.setdefault("MASTER_ADDR", hosts[0])
    os.environ.setdefault("MASTER_PORT", str(port))


def host_names(nodes: str) -> list[str]:
    """Write SLURM's short form of a list of machines out: `node[03-05,9],gpu1`.

    Raises:
        DrnError: It is not such a list.
    """
    found = re.findall(r"((?:[^,\[\]]|\[[^\[\]]*\])+)(?:,|$)", nodes)
    if not nodes or ",".join(found) != nodes:
        raise DrnError(f"{nodes!r}: not a list of machines as SLURM writes it")
    return [name for part in found for name in _written_out(part)]


def tasks_per_node(counts: str) -> list[int]:
    """Write SLURM's short form of the tasks on each machine out: `4(x2),3` is 4, 4, 3."""
    return [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
        for _ in range(int(times or 1))
    ]


def _written_out(part: str) -> list[str]:
    """Write the brackets of one name out, of which there may be several: `rack[1-2]n[1,3]`."""
    found = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if found is None:
        return [part]
    head, numbers, tail = found.groups()
    tails = _written_out(tail)
    return [head + number + rest for number in _numbers(numbers) for rest in tails]


def _numbers(text: str) -> list[str]:
    """Write `003-005,9` out, with the zeros that stand before."""
    numbers: list[str] = []
    for span in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", span)
        if found is None:
            raise DrnError(f"{text!r}: not numbers of machines as SLURM writes them")
        first, last = found[1], found[2] or found[1]
        numbers += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return numbers


def _told(*names: str) -> str:
    """Read the first variable that is set."""
    for name in names:
        if value := os.environ.get(name):
            return value
    tasks = os.environ["SLURM_STEP_NUM_TASKS"]
    raise DrnError(
        f"srun started {tasks} tasks, but {names[0]} is not set",
        "start the processes with torchrun or --gpus",
    )


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Expected:
    """The processes that this one has to wait for, because its environment says so.

    Attributes:
        text: What is waited for, where, and which variable is the reason.
        remedy: How to run without them.
        by_agent: Whether torchrun's agent has started them, unless its variables are left over too.
    """

    text: str
    remedy: str
    by_agent: bool


def expected_processes() -> Expected | None:
    """Return what this process will wait for; None where it is alone.

    The variables may be left over from another job, or from the shell of a SLURM allocation.

    Raises:
        DrnError: The variables of a job are set, but not all, or not to numbers.
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
    leave = "unset " + " ".join(["SLURM_STEP_NUM_TASKS"] * by_slurm + present)
    remedy = f"to run without them: `{leave}`, and start again"
    rank, world, port = (_number(name, leave) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not os.environ.get("MASTER_ADDR"):
        raise DrnError(f"WORLD_SIZE={world} is set, but not MASTER_ADDR", remedy)
    if world == 1:
        return None
    place = f"{os.environ['MASTER_ADDR']}:{port}"
    reason = f"SLURM_STEP_NUM_TASKS={tasks}" if by_slurm else f"WORLD_SIZE={world}"
    others = f"{world - 1} more process{'es' if world > 2 else ''}" if rank == 0 else "process 0"
    text = f"waiting for {others} at {place} because {reason} is set"
    return Expected(text, remedy, by_agent)


def _number(name: str, leave: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        problem = f"is {text!r}, not a number" if text else "is not set"
        raise DrnError(
            f"RANK and WORLD_SIZE are set, but {name} {problem}",
            f"to run in a single process: `{leave}`; to start several: --gpus N",
        )
    return int(text)


@contextmanager
def log_waiting(expected: Expected | None, remind: float = 60.0) -> Iterator[None]:
    """Log what is waited for, and how to leave if that takes long.

    Args:
        expected: What `expected_processes` found. Under torchrun's agent the first line is left
            out: the others are most often there.
        remind: Seconds after which the way out is named.
    """
    if expected is None:
        yield
        return
    # Of the tasks of a step one line is enough.
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
