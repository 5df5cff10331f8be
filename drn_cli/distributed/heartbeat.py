"""Detection of hanging ranks: the ranks report progress to the store, the agent watches it.

A rank can hang forever: suspended (SIGSTOP), or waiting for a file system that is gone. The others
then wait for it in the next all-reduce. A heartbeat thread would not notice a hanging file system,
so the work itself reports: each batch read, micro-batch, validation image and checkpoint.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch._C._distributed_c10d import Store  # public, but nowhere exported

from drn_cli.errors import few_of

START, READING, TRAINING, COMPILATION = "start", "reading data", "training", "compilation"
VALIDATION, CHECKPOINT = "validation", "checkpoint"

LONG = 1800.0  # seconds without progress that a start (with downloads) or a compilation may take
POLL = 1.0  # seconds between two polls of the store and the processes
GRACE = 60.0  # seconds that the agents of other nodes get to kill a hanging rank of theirs
UNINTERRUPTIBLE = 60.0  # seconds in state D after which a rank counts as hanging, without a limit
SILENT = json.dumps([0, 0, 0, START]).encode()  # of a rank that has not reported yet


def _key(rank: int) -> str:
    return f"drn/progress/{rank}"


class Progress:
    """Progress reports of one rank.

    Args:
        store: Store of this attempt of the job.
        rank: Rank of this process.

    Attributes:
        limit: Seconds without progress in all ranks after which one counts as hanging; None
            disables reports.
    """

    def __init__(self, store: Store, rank: int) -> None:
        self._store, self._key = store, _key(rank)
        self._count, self._step, self._doing = 0, 0, ""
        self.limit: float | None = None

    def start(self, limit: float | None) -> None:
        """Report the start and set the limit; None stops watching this rank."""
        self.limit = limit
        self._write(START)

    def report(self, doing: str | None, step: int | None) -> None:
        """Report progress; None keeps the last reported activity or step."""
        if self.limit is None:
            return
        self._step = self._step if step is None else step
        self._write(self._doing if doing is None else doing)

    def _write(self, doing: str) -> None:
        self._count, self._doing = self._count + 1, doing
        limit = self.limit or 0
        if limit and doing in (START, COMPILATION):
            limit = max(limit, LONG)
        self._store.set(self._key, json.dumps([self._count, limit, self._step, doing]))


@dataclass(frozen=True, slots=True)
class Stall:
    """Ranks that block the job."""

    ranks: tuple[int, ...]
    text: str  # message about them, one line
    overdue: float  # seconds beyond the limit


class Watch:
    """Detects that no rank of a job makes progress, and which ranks are the cause.

    Args:
        connect: Opens the store that the ranks report to; None if no store outlives them.
        world: World size.
        local: Process ids of the ranks on this node.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Store] | None,
        world: int,
        local: Mapping[int, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._keys = connect, [_key(rank) for rank in range(world)]
        self._store: Store | None = None
        self._local, self._time = local, clock
        self._reports = [SILENT] * world
        self._changed = [0.0] * world
        self._uninterruptible: dict[int, float] = {}  # since when, at every poll
        self._clock, self._polled, self._limit = 0.0, clock(), 0.0

    def stall(self) -> Stall | None:
        """Return the hanging ranks if no rank has made progress for longer than the limit.

        Until every rank has reported, the limit is at least `LONG`.
        """
        now = self._time()
        if now - self._polled < POLL:
            return None
        # If this process was suspended, as by `scontrol suspend`, the ranks were, too.
        self._clock += min(now - self._polled, 5 * POLL)
        self._polled = now
        for rank, process in self._local.items():
            if _state(process) == "D":
                self._uninterruptible.setdefault(rank, self._clock)
            else:
                self._uninterruptible.pop(rank, None)
        try:
            self._read()
        except RuntimeError:  # the node of the store does not answer: no progress here, either
            self._store = None  # a late reply would be mistaken for that to the next request
        reports = [json.loads(report) for report in self._reports]
        self._limit = max(limit for _, limit, *_ in reports)
        limit = self._limit
        if self._connect is not None and SILENT in self._reports:
            limit = max(limit, LONG)
        idle = self._clock - max(self._changed)
        if not limit or idle <= limit:
            return None
        ranks = self._culprits([doing for *_, doing in reports], limit)
        _, _, step, doing = reports[ranks[0]]
        seconds = self._clock - self._changed[ranks[0]]
        subject = _subject(ranks, "has", "have")
        text = f"{subject} made no progress for {seconds:.0f} s (last: step {step}, {doing})"
        return Stall(tuple(ranks), text, idle - limit)

    def unresponsive(self) -> Stall | None:
        """Return the ranks of this node that cannot handle signals.

        Suspended ranks (state T) count immediately; ranks in uninterruptible sleep (state D), as
        healthy ones are while they write a checkpoint, only after the limit without progress.
        """
        if stopped := self._suspended():
            return Stall(tuple(stopped), f"{_subject(stopped, 'is', 'are')} suspended", 0.0)
        if asleep := self._asleep(self._limit or UNINTERRUPTIBLE):
            subject = _subject(asleep, "is", "are")
            text = f"{subject} waiting for a disk or file system that does not answer"
            return Stall(tuple(asleep), text, 0.0)
        return None

    def _read(self) -> None:
        if self._connect is None:
            return
        if self._store is None:
            self._store = self._connect()
        store = self._store
        if SILENT not in self._reports or store.check(self._keys):
            reports = store.multi_get(self._keys)
        else:
            reports = [store.get(key) if store.check([key]) else SILENT for key in self._keys]
        for rank, report in enumerate(reports):
            if report != self._reports[rank]:
                self._changed[rank] = self._clock
        self._reports = list(reports)

    def _culprits(self, doing: Sequence[str], limit: float) -> list[int]:
        """Choose the ranks that the others wait for.

        Certain are processes that cannot run, and ranks that have not reported yet: all report
        before the rendezvous. Next come ranks that wait for no other rank: those that read data,
        and rank 0 while it writes a checkpoint. Otherwise the ranks without progress for longest.
        """
        ranks = list(range(len(doing)))
        silent = [rank for rank in ranks if self._reports[rank] == SILENT]
        alone = [
            rank
            for rank in ranks
            if doing[rank] == READING or (doing[rank] == CHECKPOINT and rank == 0)
        ]
        chosen = self._suspended() or self._asleep(limit / 2) or silent or alone or ranks
        oldest = min(self._changed[rank] for rank in chosen)
        return [rank for rank in chosen if self._changed[rank] <= oldest + 2 * POLL]

    def _suspended(self) -> list[int]:
        return [rank for rank, process in self._local.items() if _state(process) == "T"]

    def _asleep(self, limit: float) -> list[int]:
        """Return local ranks in state D, without progress, at every poll for `limit` seconds."""
        return [
            rank
            for rank, since in self._uninterruptible.items()
            if self._clock - max(since, self._changed[rank]) > limit
        ]


def _subject(ranks: Sequence[int], one: str, several: str) -> str:
    """Return `rank 1 is` or `ranks 1, 2 are`."""
    names = few_of(ranks, most=8)
    return f"rank {names} {one}" if len(ranks) == 1 else f"ranks {names} {several}"


def _state(process: int) -> str:
    """Return the state letter of a process (see `man 5 proc_pid_stat`), "" if it has exited."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
