"""The process group of a job: rank and world size, reductions, and sharding without padding."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore  # public, but nowhere exported

from drn_cli.distributed.cluster import (
    expected_processes,
    init_from_slurm,
    log_waiting,
    slurm_tasks,
)
from drn_cli.distributed.heartbeat import LONG, Progress
from drn_cli.errors import DrnError, FaultError, started_by_torchrun

Item = TypeVar("Item")

FAILED = "drn/failed"  # key in the store: number of processes that have failed
ATTEMPT = "DRN_ATTEMPT"  # set by `drn_cli.distributed.agent`: id of this attempt


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a job, as seen by one of them."""

    rank: int
    world: int
    device: torch.device
    # Progress reports for `ElasticAgent`; None if no such agent watches this process
    progress: Progress | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints results."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process. Runs on the CPU, without a GPU sync."""
        return bool(self.sum(torch.tensor(int(flag))).item())

    def all_reduce_max(self, number: int) -> int:
        """Return the maximum over all processes. Runs on the CPU, without a GPU sync."""
        if self.world == 1:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def broadcast_object(self, value: Item) -> Item:
        """Return rank 0's value in every process."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def gather_objects(self, value: Item) -> list[Item]:
        """Return the values of all processes, ordered by rank, in every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of rank 0, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Wait until every process has called this."""
        self.any(False)

    def watch(self, limit: float | None) -> None:
        """Make the agent kill a rank that blocks the others for more than `limit` seconds.

        From then on, `advance` must be called for every piece of work. None stops the watch.
        """
        if self.progress is None:
            return
        # Longer than the agent's limit, whose error names the rank that hangs.
        patience = timedelta(seconds=LONG if limit is None else 2 * max(LONG, limit))
        if self.world > 1:
            set_timeout = (
                getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
            )
            set_timeout(patience)
        self.progress.start(limit)

    def advance(self, doing: str | None = None, step: int | None = None) -> None:
        """Report progress to the agent; None keeps the last reported activity or step."""
        if self.progress is not None:
            self.progress.report(doing, step)

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's items: every item goes to exactly one process, without padding."""
        return items[self.rank :: self.world]


@cache
def register_failure() -> bool:
    """Count this process as failed, and return whether it is the first of the job.

    An error usually fails every rank; only the first one prints it. Later calls return the same.
    """
    if not started_by_torchrun():
        return True
    attempt = _attempt() or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        return _store(attempt, timedelta(seconds=10)).add(FAILED, 1) == 1
    except (KeyError, RuntimeError):  # no store: an error printed twice is better than none
        return True


@contextmanager
def join() -> Iterator[Group]:
    """Join the process group of torchrun or `srun`; outside of both, yield a group of one process.

    A process that fails registers its failure before it exits, because its absence makes the
    others fail too. `ElasticAgent` watches the rendezvous, and later the ranks that call
    `Group.watch`. CPU tensors are reduced by gloo and GPU tensors by NCCL, in the same job.

    Raises:
        DrnError: Another process of the job was lost, or there is no GPU for this one.
    """
    init_from_slurm()
    on_gpu = torch.cuda.is_available()
    if not started_by_torchrun():
        yield Group(0, 1, torch.device("cuda" if on_gpu else "cpu"))
        return
    device = torch.device("cpu")
    if on_gpu:
        device = torch.device("cuda", gpu_index(int(os.environ.get("LOCAL_RANK", "0"))))
        torch.cuda.set_device(device)
    with _explain_lost_processes():
        progress = None
        if ATTEMPT in os.environ and (attempt := _attempt()) is not None:
            progress = Progress(_store(attempt, timedelta(minutes=5)), int(os.environ["RANK"]))
            progress.start(LONG)
        _init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        group = Group(dist.get_rank(), dist.get_world_size(), device, progress)
        group.watch(None)
        try:
            yield group
            group.barrier()  # `srun --kill-on-bad-exit` kills all tasks at the first exit code > 0
        except Exception:
            register_failure()
            raise
        finally:
            dist.destroy_process_group()


def _init_process_group(backend: str) -> None:
    """Initialize the process group with a store prefix for this attempt.

    torchrun's agent keeps the store across restarts. Without a prefix, processes may read the
    addresses of the previous attempt and wait for processes that no longer exist.
    """
    watched = ATTEMPT in os.environ  # by our own agent
    expected = None if watched else expected_processes()
    attempt = _attempt()
    # Longer than the agent's limit, whose error names the rank that is missing.
    patience = timedelta(seconds=2 * LONG if watched else LONG)
    try:
        with log_waiting(expected):
            if attempt is None:
                dist.init_process_group(backend)
                return
            store = _store(attempt, patience)
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world, timeout=patience
            )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error):
            port = os.environ["MASTER_PORT"]
            raise DrnError(f"port {port} is in use", "set MASTER_PORT to a free port") from error
        if expected is None or expected.by_agent:
            raise
        raise DrnError(f"gave up {expected.text}", expected.remedy) from error


def _attempt() -> str | None:
    """Return the id of the current attempt; None if no store is kept across restarts.

    Our own agent sets it. torchrun counts restarts, but each node counts its own.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    if ATTEMPT in os.environ:
        return os.environ[ATTEMPT]
    single_node = os.environ.get("GROUP_WORLD_SIZE") == "1"
    return os.environ.get("TORCHELASTIC_RESTART_COUNT") if single_node else None


def _store(attempt: str, timeout: timedelta) -> PrefixStore:
    return attempt_store(
        attempt, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout
    )


def attempt_store(attempt: str, address: str, port: int, timeout: timedelta) -> PrefixStore:
    """Connect to the store of the job, with the keys of one attempt."""
    return PrefixStore(attempt, TCPStore(address, port, timeout=timeout))


def gpu_index(local_rank: int) -> int:
    """Return the index of the GPU for a local rank.

    Raises:
        DrnError: There are fewer GPUs than processes.
    """
    gpus = torch.cuda.device_count()
    if local_rank < gpus:
        return local_rank
    if gpus == 1 and slurm_tasks() > 1:
        return 0  # SLURM makes only one GPU visible to each task
    raise DrnError(
        f"local rank {local_rank} has no GPU: this node has {gpus}",
        f"start at most {gpus} processes per node",
    )


# Errors of gloo, NCCL and the store when the peer is gone.
_LOST = re.compile(
    r"connection (closed|reset|refused)|closed by peer|broken pipe|socket (closed|timeout)"
    r"|remote process exited|ncclRemoteError|communicator was aborted|got 0 bytes"
    r"|timed out (waiting|connecting|after)|(wait|operation) timeout",
    re.IGNORECASE,
)


@contextmanager
def _explain_lost_processes() -> Iterator[None]:
    """Replace the errors of gloo and NCCL about a lost peer by a one-line error."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" in str(error) or not (found := _LOST.search(str(error))):
            raise
        raise FaultError(
            f"another process of the job was lost ({found[0].lower()})",
            "its own error is above, or in the output of its node",
        ) from error
