"""The processes of a job: who is who, sums over all of them, and fair shares of the work."""

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

FAILED = "drn/failed"  # in the store: how many processes have failed
ATTEMPT = "DRN_ATTEMPT"  # set by `drn_cli.distributed.agent`: the name of this attempt


@dataclass(frozen=True, slots=True)
class Group:
    """This process's place in the job.

    Attributes:
        rank: Number of this process, from 0.
        world: Number of processes.
        device: Where this process computes.
        progress: Where an agent of ours watches the processes, what it is shown.
    """

    rank: int
    world: int
    device: torch.device
    progress: Progress | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is up in any process, without waiting for the GPU."""
        return bool(self.sum(torch.tensor(int(flag))).item())

    def all_reduce_max(self, number: int) -> int:
        """Give the largest of the processes' numbers, without waiting for the GPU."""
        if self.world == 1:
            return number
        box = torch.tensor(number)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return int(box)

    def broadcast_object(self, text: str) -> str:
        """Give the first process's text to all."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]

    def gather_objects(self, value: Item) -> list[Item]:
        """Give the values of all processes, by rank, to all."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Give the first process's tensors to all, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Return when every process has come here."""
        self.any(False)

    def watch(self, limit: float | None) -> None:
        """Let the agent end a process that holds the others up for longer than `limit` seconds.

        From here on, `advance` has to be called whenever work was done. None ends the watch.
        """
        if self.progress is None:
            return
        # Of both limits, ours is the one that names the process.
        patience = timedelta(seconds=LONG if limit is None else 2 * max(LONG, limit))
        if self.world > 1:
            set_timeout = (
                getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
            )
            set_timeout(patience)
        self.progress.start(limit)

    def advance(self, doing: str | None = None, step: int | None = None) -> None:
        """Report that the work advanced: what comes next, after which step, if that is new."""
        if self.progress is not None:
            self.progress.report(doing, step)

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Take this process's share: every item belongs to exactly one process, none twice."""
        return items[self.rank :: self.world]


@cache
def is_first_failure() -> bool:
    """Tell whether no process of the job failed before this one, which failed; later, the same.

    What fails one process fails them all, and the user should read it once.
    """
    if not started_by_torchrun():
        return True
    attempt = _attempt() or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        return _store(attempt, timedelta(seconds=10)).add(FAILED, 1) == 1
    except (KeyError, RuntimeError):  # twice is better than not at all
        return True


@contextmanager
def join() -> Iterator[Group]:
    """Become part of the job that torchrun or `srun` started; alone, be the whole job.

    A process that fails says so before it leaves: the others fail when they miss it. An agent of
    ours watches the processes until they have met, and then those that call `Group.watch`.
    CPU tensors are reduced by gloo and GPU tensors by NCCL, in the same job.

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
        device = torch.device("cuda", _own_gpu(int(os.environ.get("LOCAL_RANK", "0"))))
        torch.cuda.set_device(device)
    with _losses_told():
        progress = None
        if ATTEMPT in os.environ and (attempt := _attempt()) is not None:
            progress = Progress(_store(attempt, timedelta(minutes=5)), int(os.environ["RANK"]))
            progress.start(LONG)
        _meet("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        group = Group(dist.get_rank(), dist.get_world_size(), device, progress)
        group.watch(None)
        try:
            yield group
            group.barrier()  # `srun --kill-on-bad-exit` ends all when the first leaves with a code
        except Exception:
            is_first_failure()
            raise
        finally:
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Form the group, apart from what an earlier attempt left in the store.

    torch's agent keeps the store when it starts processes again, and torch's own way of meeting
    may read the addresses of the attempt before and wait for them in vain.
    """
    # Our own agent watches the processes that it starts.
    watched = ATTEMPT in os.environ
    expected = None if watched else expected_processes()
    attempt = _attempt()
    # The agent, which names the process that is missing, comes first.
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
            raise DrnError(f"port {port} is in use", "set MASTER_PORT to another") from error
        if expected is None or expected.by_agent:
            raise
        raise DrnError(f"gave up {expected.text}", expected.remedy) from error


def _attempt() -> str | None:
    """Name the attempt that this process belongs to, where a store outlives it.

    Our own agent gives it a name. torchrun counts attempts, but each machine counts its own.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    if ATTEMPT in os.environ:
        return os.environ[ATTEMPT]
    one_machine = os.environ.get("GROUP_WORLD_SIZE") == "1"
    return os.environ.get("TORCHELASTIC_RESTART_COUNT") if one_machine else None


def _store(attempt: str, timeout: timedelta) -> PrefixStore:
    return attempt_store(
        attempt, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout
    )


def attempt_store(attempt: str, address: str, port: int, timeout: timedelta) -> PrefixStore:
    """Reach what an attempt keeps in the store of the job."""
    return PrefixStore(attempt, TCPStore(address, port, timeout=timeout))


def _own_gpu(number: int) -> int:
    """Choose the GPU of this machine's process `number`.

    Raises:
        DrnError: There are fewer GPUs than processes.
    """
    there = torch.cuda.device_count()
    if number < there:
        return number
    if there == 1 and slurm_tasks() > 1:
        return 0  # SLURM shows each task its own
    raise DrnError(
        f"process {number} of this machine has no GPU: there are {there}",
        f"start at most {there} processes a machine",
    )


# What gloo, NCCL and the store say when the other end is gone.
_LOST = re.compile(
    r"connection (closed|reset|refused)|closed by peer|broken pipe|socket (closed|timeout)"
    r"|remote process exited|ncclRemoteError|communicator was aborted|got 0 bytes"
    r"|timed out (waiting|connecting|after)|(wait|operation) timeout",
    re.IGNORECASE,
)


@contextmanager
def _losses_told() -> Iterator[None]:
    """Turn what gloo and NCCL raise when another process is gone into one line."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" in str(error) or not (found := _LOST.search(str(error))):
            raise
        raise FaultError(
            f"another process of the job was lost ({found[0].lower()})",
            "what it said itself stands above, or where its machine writes",
        ) from error
