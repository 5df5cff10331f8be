"""SLURM: the tasks of one `srun` become the processes of one job."""

import os
import re

from drn_cli.errors import DrnError

# Below the ports that Linux gives to outgoing connections, which start at 32768.
FIRST_PORT, PORTS = 10000, 20000


def slurm_tasks() -> int:
    """Give the number of tasks that `srun` started together with this process; alone, 1."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def join_slurm() -> None:
    """Under `srun` with several tasks, set the variables by which torchrun's processes meet.

    The first task's machine is where they meet, at a port made of the numbers of the job and its
    step. MASTER_ADDR and MASTER_PORT that are set already stay. Elsewhere, nothing happens.

    Raises:
        DrnError: SLURM does not say all that is needed. To go on would let each task do the
            whole work.
    """
    if slurm_tasks() == 1 or ("RANK" in os.environ and "WORLD_SIZE" in os.environ):
        return
    node = int(_told("SLURM_NODEID"))
    local_world = tasks_of_nodes(_told("SLURM_STEP_TASKS_PER_NODE"))
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


def tasks_of_nodes(counts: str) -> list[int]:
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
