"""Detection of hanging ranks, with real stores, real processes and a simulated clock."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from drn_cli.distributed.heartbeat import (
    CHECKPOINT,
    COMPILATION,
    LONG,
    READING,
    START,
    TRAINING,
    Progress,
    Stall,
    Watch,
)

LIMIT = 20.0


class Job:
    """Ranks that report to a store, and the watch of this node."""

    def __init__(
        self,
        world: int,
        local: dict[int, int] | None = None,
        connect: Callable[[], dist.Store] | None = None,
    ) -> None:
        self.seconds, self.store = 0.0, dist.HashStore()
        self.ranks = [Progress(self.store, rank) for rank in range(world)]
        for rank in self.ranks:
            rank.limit = LIMIT
        self.watch = Watch(
            connect or (lambda: self.store), world, local or {}, lambda: self.seconds
        )

    def report(self, *doing: str | None, step: int = 7) -> None:
        """Report for each rank whose activity is not None."""
        for rank, what in zip(self.ranks, doing, strict=True):
            if what is not None:
                rank.report(what, step)

    def wait(self, seconds: float) -> Stall | None:
        """Poll once a second, and return the last result."""
        found = None
        for _ in range(round(seconds)):
            self.seconds += 1
            found = self.watch.stall()
        return found


@pytest.mark.parametrize(
    ("doing", "culprits"),
    [
        ((TRAINING, READING, TRAINING), (1,)),  # the others wait for it in the all-reduce
        ((CHECKPOINT, TRAINING, TRAINING), (0,)),  # the others wait for rank 0
        (
            (TRAINING, CHECKPOINT, CHECKPOINT),
            (0, 1, 2),
        ),  # only rank 0 writes
        ((TRAINING, TRAINING, TRAINING), (0, 1, 2)),
    ],
)
def test_names_the_rank_that_blocks_the_others(doing, culprits):
    job = Job(3)
    job.report(*doing)
    assert job.wait(LIMIT) is None
    stall = job.wait(2)
    assert stall is not None and stall.ranks == culprits
    names = "rank {} has" if len(culprits) == 1 else "ranks {} have"
    subject = names.format(", ".join(map(str, culprits)))
    assert stall.text == f"{subject} made no progress for 21 s (last: step 7, {doing[culprits[0]]})"
    assert stall.overdue == 1


def test_names_the_rank_without_progress_for_longest():
    job = Job(3)
    job.report(TRAINING, TRAINING, TRAINING)
    job.wait(5)
    job.report(TRAINING, None, TRAINING)
    assert job.wait(LIMIT) is None
    stall = job.wait(2)
    assert stall is not None and stall.ranks == (1,)
    job.report(None, TRAINING, None)
    assert job.wait(2) is None


@pytest.mark.parametrize(("doing", "culprits"), [((START, None), (1,)), ((None, None), (0, 1))])
def test_names_ranks_that_never_reported(doing, culprits):
    """One that the others wait for, or all of them, before the rendezvous."""
    job = Job(2)
    job.report(*doing)
    assert job.wait(LONG) is None
    stall = job.wait(2)
    assert stall is not None and stall.ranks == culprits
    assert stall.text.endswith(" made no progress for 1802 s (last: step 0, start)")


def test_ignores_ranks_that_are_not_watched_any_more():
    """As in commands that report no progress after the rendezvous."""
    job = Job(1)
    job.ranks[0].start(LONG)
    job.wait(1)
    job.ranks[0].start(None)
    job.report(TRAINING)
    assert job.wait(2 * LONG) is None


@pytest.mark.parametrize("slow", [COMPILATION, START])
def test_compilation_and_start_have_a_longer_limit(slow):
    job = Job(2)
    job.report(slow, TRAINING)
    assert job.wait(LONG) is None
    assert job.wait(2) is not None


def test_ignores_the_time_in_which_the_agent_itself_was_suspended():
    job = Job(1)
    job.report(TRAINING)
    job.wait(1)
    job.seconds += 9999
    assert job.watch.stall() is None


def test_detects_hangs_while_the_store_is_unreachable():
    """An unreachable store counts as no progress; reports over a new connection count again."""
    dead = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = dist.TCPStore("127.0.0.1", dead.port, timeout=timedelta(seconds=1))
    clients: list[dist.Store] = [client]
    rank = Progress(client, 0)
    rank.limit = LIMIT
    rank.report(TRAINING, 3)

    def connect() -> dist.Store:
        if not clients:
            raise dist.DistNetworkError("refused")
        return clients.pop()

    job = Job(1, connect=connect)
    assert job.wait(2) is None
    del dead
    assert job.wait(LIMIT - 2) is None
    stall = job.wait(5)
    assert stall is not None and "(last: step 3, training)" in stall.text
    job.report(TRAINING)
    clients.append(job.store)
    assert job.wait(1) is None


def test_without_a_store_nothing_hangs():
    job = Job(1)
    watch = Watch(None, 1, {}, lambda: job.seconds)
    job.seconds = LONG
    assert watch.stall() is None and watch.unresponsive() is None


UNINTERRUPTIBLE = """
import ctypes, time
print(flush=True)
if ctypes.CDLL(None).vfork() == 0:  # the parent is in state D until this child ends
    time.sleep(60)
"""
WAITING = "import time; print(flush=True); time.sleep(60)"

Start = Callable[[str], int]


@pytest.fixture
def start(until) -> Iterator[Start]:
    children = []

    def start(state: str) -> int:
        script = UNINTERRUPTIBLE if state == "D" else WAITING
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
        )
        children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        if state == "T":
            child.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{child.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == state)
        return child.pid

    yield start
    for child in children:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.mark.parametrize("state", ["T", "D"])
@pytest.mark.parametrize(
    ("doing", "limit"),
    [((READING, TRAINING), LIMIT), ((None, None), LONG)],
    ids=["reading", "never reported"],
)
def test_prefers_ranks_that_cannot_run(start, state, doing, limit):
    job = Job(2, {0: start("S"), 1: start(state)})
    job.report(*doing)
    stall = job.wait(limit + 2)
    assert stall is not None and stall.ranks == (1,)


@pytest.mark.parametrize(
    ("states", "ranks", "text"),
    [("DT", (1,), "rank 1 is suspended"), ("TT", (0, 1), "ranks 0, 1 are suspended")],
)
def test_only_suspended_ranks_are_unresponsive_immediately(start, states, ranks, text):
    job = Job(2, {rank: start(state) for rank, state in enumerate(states)})
    unresponsive = job.watch.unresponsive()
    assert unresponsive is not None and (unresponsive.ranks, unresponsive.text) == (ranks, text)


@pytest.mark.parametrize("limit", [LIMIT, None])
def test_a_rank_in_state_d_is_unresponsive_only_after_the_limit(start, limit):
    """A rank that writes is in state D most of the time; its reports restart the limit."""
    job = Job(1, {0: start("D")})
    job.ranks[0].limit = limit
    patience = limit or 60
    job.report(CHECKPOINT)
    job.wait(patience)
    assert job.watch.unresponsive() is None
    if limit:
        job.report(CHECKPOINT)
        job.wait(patience)
        assert job.watch.unresponsive() is None
    job.wait(2)
    unresponsive = job.watch.unresponsive()
    assert unresponsive is not None and unresponsive.ranks == (0,)
    assert "does not answer" in unresponsive.text


def test_a_rank_that_leaves_state_d_is_responsive(start):
    local = {0: start("D")}
    job = Job(1, local)
    job.ranks[0].limit = None
    job.wait(50)
    asleep, local[0] = local[0], start("S")
    job.wait(1)
    local[0] = asleep
    job.wait(50)
    assert job.watch.unresponsive() is None
