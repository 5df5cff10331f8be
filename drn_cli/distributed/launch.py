"""Start many processes of `drn`, on this machine and on others, through torchrun's own agent."""

import logging
import os
import re
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from drn_cli.distributed.cluster import slurm_tasks
from drn_cli.errors import DrnError
from drn_cli.files import write_text

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.elastic.rendezvous import RendezvousParameters

    from drn_cli.distributed.agent import ElasticAgent

EXIT_CODE_FILE = "DRN_EXIT_CODE_FILE"
TORCHRUN = "torch.distributed.elastic"
PORT = 29500  # torchrun's default
JOB = "drn"  # its id, where --rdzv-id gives none

logger = logging.getLogger(__name__)

# Ctrl-C; what clusters and `kill` send; what SLURM sends some time before the limit; and what
# comes when the terminal or the SSH connection closes.
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def stop_signals() -> list[signal.Signals]:
    """Signals that ask this process to stop; not SIGHUP where `nohup` has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP if not (ignored and number == signal.SIGHUP)]


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What torchrun's options of the same names say.

    Attributes:
        gpus: Processes on this machine: one to a GPU, or all on the CPU where there is none;
            "auto" is one for each GPU there is.
        nnodes: Machines, "2", or from how many to how many, "1:4"; None is this machine alone.
        node_rank: Number of this machine, from 0, the one that `rdzv_endpoint` names. Without
            it, machines are numbered as they meet.
        rdzv_endpoint: Where machines meet, "HOST[:PORT]"; HOST is one of them.
        rdzv_id: Name of the job, the same on all machines.
        max_restarts: How often all processes are started again after one has failed.
        master_port: Port at which the processes of a single machine meet; by default a free one.

    Raises:
        DrnError: The options do not go together.
    """

    gpus: int | Literal["auto"] = 1
    nnodes: str | None = None
    node_rank: int | None = None
    rdzv_endpoint: str | None = None
    rdzv_id: str | None = None
    max_restarts: int = 0
    master_port: int | None = None

    def __post_init__(self) -> None:
        least, most = self.node_range
        if not 1 <= least <= most:
            raise DrnError(f"--nnodes {self.nnodes}: neither a number, as 2, nor a range, as 1:4")
        if self.nnodes is None:
            for name in ("node_rank", "rdzv_endpoint", "rdzv_id"):
                if getattr(self, name) is not None:
                    raise DrnError(
                        f"--{name.replace('_', '-')} is for several machines", "add --nnodes N"
                    )
        if most > 1:
            self._check_several(least, most)

    def _check_several(self, least: int, most: int) -> None:
        nnodes = f"--nnodes {self.nnodes}"
        if self.rdzv_endpoint is None:
            raise DrnError(
                f"{nnodes}: the machines need a place to meet",
                "--rdzv-endpoint HOST:PORT, the same for all; HOST is one of them",
            )
        if self.master_port is not None:
            raise DrnError(
                "--master-port is for a single machine",
                f"--rdzv-endpoint {host_and_port(self.rdzv_endpoint)[0]}:{self.master_port}",
            )
        if self.node_rank is None:
            return
        if least < most or self.node_rank >= most:
            numbers = f"--nnodes {most}, --node-rank 0 to {most - 1}"
            raise DrnError(f"{nnodes} --node-rank {self.node_rank} do not go together", numbers)
        if self.max_restarts:
            raise DrnError(
                "--max-restarts: machines with fixed numbers cannot meet again",
                "leave out --node-rank",
            )

    @property
    def node_range(self) -> tuple[int, int]:
        """The least and the greatest number of machines; (0, 0) if `nnodes` is neither form."""
        found = re.fullmatch(r"(\d+)(?::(\d+))?", self.nnodes or "1")
        return (int(found[1]), int(found[2] or found[1])) if found else (0, 0)

    @property
    def processes(self) -> int:
        """Processes of the job, if all machines come and have as many as this one."""
        return self.node_range[1] * resolve_nproc(self.gpus)

    @property
    def needs_launcher(self) -> bool:
        """Whether this command line asks for other processes than the one it runs in."""
        return self.processes > 1 or self.max_restarts > 0


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Split HOST or HOST:PORT; an IPv6 address stands in brackets.

    Raises:
        DrnError: It is neither.
    """
    found = re.fullmatch(r"(\[[^\]]+\]|[^:\s]+)(?::(\d{1,5}))?", endpoint)
    if found is None:
        raise DrnError(f"--rdzv-endpoint {endpoint}: not of the form HOST:PORT")
    return found[1], int(found[2] or PORT)


def rendezvous_config(options: LaunchOptions) -> "RendezvousParameters":
    """Return torchrun's parameters for the rendezvous of all processes.

    Raises:
        DrnError: The endpoint is not of the form HOST[:PORT], or there is no such host.
    """
    from torch.distributed.elastic.rendezvous import RendezvousParameters

    least, most = options.node_range
    if most == 1 and options.master_port is None:
        # A free port, bound as it is chosen: two runs on one node never collide.
        return RendezvousParameters("c10d", "localhost:0", str(uuid.uuid4()), 1, 1)
    if most == 1:
        endpoint = f"127.0.0.1:{options.master_port}"
        return RendezvousParameters("static", endpoint, str(uuid.uuid4()), 1, 1, rank=0)
    host, port = host_and_port(options.rdzv_endpoint or "")
    address = local_address_for(host, port)
    endpoint, job = f"{host}:{port}", options.rdzv_id or JOB
    if options.node_rank is not None:
        return RendezvousParameters("static", endpoint, job, least, most, rank=options.node_rank)
    return RendezvousParameters("c10d", endpoint, job, least, most, local_addr=address)


def local_address_for(host: str, port: int) -> str:
    """Return the address at which a host, and all nodes that reach it, reach this node.

    torch would use this node's own name, which other nodes often cannot resolve, or resolve to
    themselves: `localhost`. Nothing is sent.

    Raises:
        DrnError: The host name cannot be resolved, or the host cannot be reached from here.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            local, remote = probe.getsockname()[0], probe.getpeername()[0]
    except OSError as error:
        raise DrnError(
            f"--rdzv-endpoint {host}:{port}: {error.strerror or error}",
            "it has to be the name or address of one of the machines",
        ) from error
    # The rendezvous host itself keeps the name that all nodes were given.
    return host if local == remote else str(local)


def rendezvous_error(options: LaunchOptions, error: Exception) -> DrnError:
    """Return the error for a rendezvous that failed, at the start or after a restart."""
    from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousTimeoutError

    endpoint = options.rdzv_endpoint or f"127.0.0.1:{options.master_port or 0}"
    if isinstance(error, RendezvousClosedError):
        return DrnError(
            f"{endpoint}: the job {options.rdzv_id or JOB!r} has ended on another machine",
            "a new one needs another --rdzv-id",
        )
    text = next(iter(str(error).splitlines()), type(error).__name__)
    if "EADDRINUSE" in text:
        return DrnError(f"{endpoint}: the port is in use", "choose another")
    if isinstance(error, RendezvousTimeoutError):
        text = f"fewer machines came than --nnodes {options.nnodes} says"
    hint = "is the same said on all machines, and can they reach it?" if options.nnodes else None
    return DrnError(f"{endpoint}: the processes did not meet: {text}", hint)


def resolve_nproc(gpus: int | Literal["auto"]) -> int:
    """Give the number of processes: with "auto" one for each GPU there is, and at least one."""
    if gpus != "auto":
        return gpus
    import torch

    return max(1, torch.cuda.device_count())


def check_nproc(processes: int) -> None:
    """See that every process gets a GPU of its own, or that there is none at all.

    Raises:
        DrnError: There are GPUs, but too few.
    """
    import torch

    there = torch.cuda.device_count()
    if 0 < there < processes:
        raise DrnError(f"--gpus {processes}: this machine has {there}", f"--gpus {there}")


def started_by_launch() -> bool:
    """Whether `launch` started this process, and its command has shown what it found before."""
    return EXIT_CODE_FILE in os.environ


def report_exit_code(code: int) -> None:
    """Tell `launch`, where it waits, how this process ends, and not to start it again."""
    if started_by_launch():
        write_text(Path(os.environ[EXIT_CODE_FILE]), str(code))


def worker_exit_code(code: int) -> int:
    """Give the code with which a process that was asked to stop has to exit.

    torchrun's agent takes any code but 0 for a failure, and starts failed processes again. So
    where `launch` waits, it is told the code by a file, and the process exits with 0.
    """
    if not started_by_launch():
        return code
    report_exit_code(code)
    return 0


def launch(arguments: Sequence[str], options: LaunchOptions) -> int:
    """Run `drn ARGUMENTS` in several processes that form one job, and wait for them.

    SIGINT, SIGTERM, SIGUSR1 and SIGHUP are passed on to the processes, which may take their time to
    leave; a second SIGINT gives them 30 seconds.

    Args:
        arguments: The command line after `drn`.
        options: How many processes, and where the other machines are.

    Returns:
        The exit code: 0, what a process reported with `report_exit_code`, 128 + the signal that
        ended the job, or the code of the process that failed first.

    Raises:
        DrnError: A process was killed by a signal, or the machines did not meet.
    """
    _check_tasks(options)
    processes = resolve_nproc(options.gpus)
    check_nproc(processes)

    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    from drn_cli.distributed.agent import ElasticAgent, worker_spec

    # Left alone, torchrun gives each process a single thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    _hush()
    with tempfile.TemporaryDirectory(prefix="drn-launch-") as folder:
        code_file = Path(folder) / "exit_code"
        os.environ[EXIT_CODE_FILE] = str(code_file)
        words = ("-P", "-u", "-m", "drn_cli", *arguments)  # nothing from the current folder
        try:
            rendezvous = get_rendezvous_handler(rendezvous_config(options))
            spec = worker_spec(sys.executable, words, processes, rendezvous, options.max_restarts)
            agent = ElasticAgent(spec, DefaultLogsSpecs(log_dir=folder), code_file, stop_signals())
            failures = agent.work()
        except SignalException as received:
            return 128 + received.sigval
        except (RendezvousError, DistError) as error:
            raise rendezvous_error(options, error) from error
        if failures:
            return _exit_code(failures, agent)
        return int(code_file.read_text()) if code_file.is_file() else 0


def _check_tasks(options: LaunchOptions) -> None:
    """Refuse to let each task of an `srun` start a job of its own, all for the same work."""
    tasks = slurm_tasks()
    least, most = options.node_range
    if tasks > 1 and not least <= tasks <= most:
        raise DrnError(
            f"srun started {tasks} tasks, and each would start a job of its own",
            "either one task a machine with --nnodes and --rdzv-endpoint, or one task a GPU "
            "without --gpus and --max-restarts",
        )


def _exit_code(failures: "Mapping[int, ProcessFailure]", agent: "ElasticAgent") -> int:
    from drn_cli.distributed.agent import ending, first_failure

    rank, failure = first_failure(failures)
    asked, stall = agent.asked, agent.stall
    if stall is not None and asked is not None:
        logger.warning("%s; it was killed, without a checkpoint of its last step", stall.text)
    elif stall is not None:
        raise DrnError(
            stall.text,
            "does its machine or file system hang? train.timeout is the limit; --max-restarts N "
            "starts all again, and --resume goes on from the last checkpoint",
        )
    if failure.exitcode > 0:
        return failure.exitcode
    if asked is not None:  # and the process had not yet learnt to take the signal as a wish
        return 128 + asked
    hint = "was memory short?" if failure.exitcode == -signal.SIGKILL else None
    raise DrnError(f"process {rank} {ending(failure)}", hint)


def _hush() -> None:
    """Silence torchrun: the processes say what went wrong, and it would again, at length."""
    for name in (TORCHRUN, *logging.root.manager.loggerDict):
        if name.startswith(TORCHRUN):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # each has a level of its own


def _cores() -> int:
    return len(os.sched_getaffinity(0))
