"""The processes of a job: who is who, sums over all of them, and fair shares of the work."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Group:
    """This process's place in the job.

    Attributes:
        rank: Number of this process, from 0.
        world: Number of processes.
        device: Where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
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

    def tell(self, text: str) -> str:
        """Give the first process's text to all."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give the first process's tensors to all, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return when every process has come here."""
        self.any(False)

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Take this process's share: every item belongs to exactly one process, none twice."""
        return items[self.rank :: self.world]


def started_by_torchrun() -> bool:
    """Tell whether torchrun, or something that sets the same variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@cache
def first_to_fail() -> bool:
    """Tell whether no process of the job failed before this one, which failed; later, the same.

    What fails one process fails them all, and the user should read it once.
    """
    if not started_by_torchrun():
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=10)
        )
        return store.add(f"drn/failed/{attempt}", 1) == 1
    except (KeyError, RuntimeError):  # twice is better than not at all
        return True


@contextmanager
def join() -> Iterator[Group]:
    """Become part of the job that torchrun started; alone, be the whole job.

    A process that fails says so before it leaves: the others fail when they miss it.
    CPU tensors are reduced by gloo and GPU tensors by NCCL, in the same job.
    """
    on_gpu = torch.cuda.is_available()
    if not started_by_torchrun():
        yield Group(0, 1, torch.device("cuda" if on_gpu else "cpu"))
        return
    device = torch.device("cpu")
    if on_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    except Exception:
        first_to_fail()
        raise
    finally:
        dist.destroy_process_group()
