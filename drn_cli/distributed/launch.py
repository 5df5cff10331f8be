"""Launch `drn` in several processes, on one or more nodes, with torchrun's elastic agent."""

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
from drn_cli.formatting import first_line

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.elastic.rendezvous import RendezvousParameters

    from drn_cli.distributed.agent import ElasticAgent

EXIT_CODE_FILE = "DRN_EXIT_CODE_FILE"
TORCHRUN = "torch.distributed.elastic"
PORT = 29500  # torchrun's default
JOB = "drn"  # default of --rdzv-id

logger = logging.getLogger(__name__)

# Ctrl-C; `kill` and clusters; SLURM before the time limit (--signal); a closed terminal or SSH.
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to stop, without SIGHUP if `nohup` ignores it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP if not (ignored and number == signal.SIGHUP)]


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Options of the launcher, most of them named as in torchrun.

    Raises:
        DrnError: Options that exclude each other, or a value out of range.
    """

    # Processes on this node, one per GPU, or CPU processes if there is no GPU; "auto": all GPUs
    gpus: int | Literal["auto"] = 1
    nnodes: str | None = None  # "2", or a range for elastic training, "1:4"; None is this node
    node_rank: int | None = None  # 0 is the rendezvous host; None assigns ranks at rendezvous
    rdzv_endpoint: str | None = None  # "HOST[:PORT]"; HOST is one of the nodes
    rdzv_id: str | None = None  # job id, identical on all nodes
    max_restarts: int = 0  # number of times all processes are restarted after a failure
    master_port: int | None = None  # for rendezvous in a single-node job; None chooses a free one

    def __post_init__(self) -> None:
        least, most = self.node_range
        if not 1 <= least <= most:
            raise DrnError(
                f"--nnodes {self.nnodes}: not a number of nodes",
                "use a number such as 2, or a range such as 1:4",
            )
        if self.nnodes is None:
            for name in ("node_rank", "rdzv_endpoint", "rdzv_id"):
                if getattr(self, name) is not None:
                    raise DrnError(
                        f"--{name.replace('_', '-')}: only for multi-node jobs", "add --nnodes N"
                    )
        if most > 1:
            self._check_multi_node(least, most)

    def _check_multi_node(self, least: int, most: int) -> None:
        nnodes = f"--nnodes {self.nnodes}"
        if self.rdzv_endpoint is None:
            raise DrnError(
                f"{nnodes}: the rendezvous endpoint is missing",
                "add --rdzv-endpoint HOST:PORT, identical on all nodes; HOST is one of them",
            )
        if self.master_port is not None:
            raise DrnError(
                "--master-port: only for single-node jobs",
                f"use --rdzv-endpoint {host_and_port(self.rdzv_endpoint)[0]}:{self.master_port}",
            )
        if self.node_rank is None:
            return
        if least < most:
            raise DrnError(
                f"{nnodes}: elastic training assigns the node ranks itself", "omit --node-rank"
            )
        if self.node_rank >= most:
            raise DrnError(
                f"--node-rank {self.node_rank}: out of range for {nnodes}", f"use 0 to {most - 1}"
            )
        if self.max_restarts:
            raise DrnError(
                "--max-restarts: nodes with a fixed rank cannot rejoin the rendezvous",
                "omit --node-rank",
            )

    @property
    def node_range(self) -> tuple[int, int]:
        """Minimum and maximum number of nodes; (0, 0) if `nnodes` is malformed."""
        found = re.fullmatch(r"(\d+)(?::(\d+))?", self.nnodes or "1")
        return (int(found[1]), int(found[2] or found[1])) if found else (0, 0)

    @property
    def processes(self) -> int:
        """World size with the maximum number of nodes, all with as many processes as this one."""
        return self.node_range[1] * resolve_nproc(self.gpus)

    @property
    def needs_launcher(self) -> bool:
        """Whether the job cannot run in this process: several processes, or restarts."""
        return self.processes > 1 or self.max_restarts > 0


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Split HOST or HOST:PORT; IPv6 addresses are in brackets.

    Raises:
        DrnError: The endpoint is malformed.
    """
    found = re.fullmatch(r"(\[[^\]]+\]|[^:\s]+)(?::(\d{1,5}))?", endpoint)
    if found is None:
        raise DrnError(
            f"--rdzv-endpoint {endpoint}: not HOST:PORT",
            "use HOST or HOST:PORT; put IPv6 addresses in brackets",
        )
    return found[1], int(found[2] or PORT)


def rendezvous_config(options: LaunchOptions) -> "RendezvousParameters":
    """Return torchrun's parameters for the rendezvous of all processes.

    Raises:
        DrnError: The endpoint is not HOST[:PORT], or the host is unknown.
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
    """Return the address of this node as the rendezvous host sees it.

    torch would use this node's host name, which other nodes often cannot resolve or, as with
    `localhost`, resolve to themselves. No packet is sent.

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
            "use the name or address of one of the nodes",
        ) from error
    # The rendezvous host itself keeps the name that all nodes were given.
    return host if local == remote else str(local)


def rendezvous_error(options: LaunchOptions, error: Exception) -> DrnError:
    """Return the error for a rendezvous that failed, at the start or after a restart."""
    from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousTimeoutError

    endpoint = options.rdzv_endpoint or f"127.0.0.1:{options.master_port or 0}"
    if isinstance(error, RendezvousClosedError):
        return DrnError(
            f"{endpoint}: the job {options.rdzv_id or JOB!r} has ended on another node",
            "use another --rdzv-id for a new job",
        )
    text = first_line(error)
    if "EADDRINUSE" in text:
        return DrnError(f"{endpoint}: the port is in use", "choose another port")
    if isinstance(error, RendezvousTimeoutError):
        text = f"timeout with fewer nodes than --nnodes {options.nnodes}"
    hint = "use the same --rdzv-endpoint on all nodes, and check that they can reach it"
    return DrnError(f"{endpoint}: rendezvous failed: {text}", hint if options.nnodes else None)


def resolve_nproc(gpus: int | Literal["auto"]) -> int:
    """Return the number of processes on this node; "auto" is one per visible GPU, at least one."""
    if gpus != "auto":
        return gpus
    import torch

    return max(1, torch.cuda.device_count())


def check_nproc(processes: int) -> None:
    """Check that there is a GPU for every process, or no GPU at all.

    Raises:
        DrnError: There are fewer GPUs than processes.
    """
    import torch

    visible = torch.cuda.device_count()
    if 0 < visible < processes:
        raise DrnError(f"--gpus {processes}: this node has {visible}", f"use --gpus {visible}")


def started_by_launch() -> bool:
    """Return whether `launch` started this process; it has printed the warnings already."""
    return EXIT_CODE_FILE in os.environ


def report_exit_code(code: int) -> None:
    """Report the exit code of this process to `launch`, which then does not restart it."""
    if started_by_launch():
        write_text(Path(os.environ[EXIT_CODE_FILE]), str(code))


def worker_exit_code(code: int) -> int:
    """Return the code with which a process that was asked to stop must exit.

    torchrun's agent restarts processes that exit with a nonzero code. Below `launch`, the
    code is therefore written to a file, and the process exits with 0.
    """
    if not started_by_launch():
        return code
    report_exit_code(code)
    return 0


def launch(arguments: Sequence[str], options: LaunchOptions) -> int:
    """Run `drn ARGUMENTS` in several processes of one job, and wait for them.

    SIGINT, SIGTERM, SIGUSR1 and SIGHUP are forwarded to the processes, which may finish their step;
    after a second SIGINT they are killed within 30 seconds.

    Args:
        arguments: The command line after `drn`.
        options: Number of processes and nodes.

    Returns:
        The exit code: 0, the code that a process passed to `report_exit_code`, 128 + the signal
        that ended the job, or the code of the process that failed first.

    Raises:
        DrnError: A process was killed by a signal, the rendezvous failed, or each task of an `srun`
            would start the same job.
    """
    tasks = slurm_tasks()
    least, most = options.node_range
    if tasks > 1 and not least <= tasks <= most:
        raise DrnError(
            f"srun started {tasks} tasks, each of which would start its own job",
            "use one task per node with --nnodes and --rdzv-endpoint, or one task per GPU "
            "without --gpus and --max-restarts",
        )
    processes = resolve_nproc(options.gpus)
    check_nproc(processes)

    from torch.distributed import DistError
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    from drn_cli.distributed.agent import ElasticAgent

    # torchrun's default is a single thread per process.
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    for name in (TORCHRUN, *logging.root.manager.loggerDict):
        if name.startswith(TORCHRUN):  # it would repeat the errors of the processes, at length
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="drn-launch-") as folder:
        code_file = Path(folder) / "exit_code"
        os.environ[EXIT_CODE_FILE] = str(code_file)
        try:
            spec = WorkerSpec(
                role="drn",
                local_world_size=processes,
                rdzv_handler=get_rendezvous_handler(rendezvous_config(options)),
                entrypoint=sys.executable,
                # -P: imports nothing from the current folder
                args=("-P", "-u", "-m", "drn_cli", *arguments),
                max_restarts=options.max_restarts,
            )
            agent = ElasticAgent(spec, DefaultLogsSpecs(log_dir=folder), code_file, stop_signals())
            failures = agent.work()
        except SignalException as received:
            return 128 + received.sigval
        except (RendezvousError, DistError) as error:
            raise rendezvous_error(options, error) from error
        if failures:
            return _exit_code(failures, agent)
        return int(code_file.read_text()) if code_file.is_file() else 0


def _exit_code(failures: "Mapping[int, ProcessFailure]", agent: "ElasticAgent") -> int:
    from drn_cli.distributed.agent import first_failure, how_it_ended

    rank, failure = first_failure(failures)
    received, stall = agent.received, agent.stall
    if stall is not None and received is not None:
        logger.warning("%s; killed without a checkpoint of its last step", stall.text)
    elif stall is not None:
        raise DrnError(
            stall.text,
            "check its node and file system; train.timeout is the limit, --max-restarts N restarts "
            "all processes, --resume continues from the last checkpoint",
        )
    if failure.exitcode > 0:
        return failure.exitcode
    if received is not None:  # before the process had installed its signal handler
        return 128 + received
    hint = "out of memory?" if failure.exitcode == -signal.SIGKILL else None
    raise DrnError(f"rank {rank} {how_it_ended(failure)}", hint)
