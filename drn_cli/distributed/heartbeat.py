"""Progress of the ranks: reported to the store by their work, watched by the agent beside it.

A rank can hang without an end: stopped (SIGSTOP), or waiting for a file system that is gone. The
others then wait for it in the next exchange of gradients. A thread for the heartbeat alone would
miss the file system, so the work itself reports: each batch read, each pass, validation image and
checkpoint.
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
POLL = 1.0  # seconds between two looks at the store and the processes
GRACE = 60.0  # seconds that other machines get to end a rank of theirs
UNINTERRUPTIBLE = 60.0  # seconds in state D after which a rank hangs, where no limit is known
SILENT = json.dumps([0, 0, 0, START]).encode()  # stands for a rank that has not reported yet


def _key(rank: int) -> str:
    return f"drn/progress/{rank}"


class Progress:
    """What one rank reports.

    Args:
        store: Of this attempt of the job.
        rank: Of this process.

    Attributes:
        limit: Seconds without progress of all ranks after which one hangs; None reports no work.
    """

    def __init__(self, store: Store, rank: int) -> None:
        self._store, self._key = store, _key(rank)
        self._count, self._step, self._doing = 0, 0, ""
        self.limit: float | None = None

    def start(self, limit: float | None) -> None:
        """Report the start, from which on `limit` holds; None ends the watch over this rank."""
        self.limit = limit
        self._write(START)

    def report(self, doing: str | None, step: int | None) -> None:
        """Report that the work advanced; what and which step stay as they were if None."""
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
    """Ranks that hold the job up.

    Attributes:
        ranks: Their numbers.
        text: One line about them.
        overdue: Seconds beyond the limit.
    """

    ranks: tuple[int, ...]
    text: str
    overdue: float


class Watch:
    """Notices that no rank of a job advances any more, and finds the one that is the reason.

    Args:
        connect: Opens the store that the ranks report to; None where no store outlives them.
        world: Number of ranks.
        local: Process ids of this machine's ranks.
        clock: Seconds since any moment.
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
        """Return what holds the job up, if nothing advanced for longer than the ranks' limit.

        A rank that has not reported yet may take as long as any start.
        """
        now = self._time()
        if now - self._polled < POLL:
            return None
        # Where this process itself was stopped, as by `scontrol suspend`, the ranks were, too.
        self._clock += min(now - self._polled, 5 * POLL)
        self._polled = now
        for rank, process in self._local.items():
            if _state(process) == "D":
                self._uninterruptible.setdefault(rank, self._clock)
            else:
                self._uninterruptible.pop(rank, None)
        try:
            self._read()
        except RuntimeError:  # the store's machine does not answer: nothing advances here either
            self._store = None  # a late answer would be taken for that to the next question
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

    def deaf(self) -> Stall | None:
        """Return the ranks of this machine that no signal reaches.

        Those that are stopped (state T) at once; those in uninterruptible sleep (D), where a
        healthy rank is while it writes a checkpoint, only after the limit without progress.
        """
        if stopped := [rank for rank, process in self._local.items() if _state(process) == "T"]:
            return Stall(tuple(stopped), f"{_subject(stopped, 'is', 'are')} stopped", 0.0)
        if asleep := self._asleep(self._limit or UNINTERRUPTIBLE):
            subject = _subject(asleep, "waits", "wait")
            text = f"{subject} for a disk or file system that does not answer"
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

        A process that cannot run is one for certain, and so is one that has not reported yet: all
        report before they meet. One that reads data waits for no other rank, nor does rank 0 that
        writes a checkpoint. Of the rest, those that advanced longest ago.
        """
        ranks = list(range(len(doing)))
        stopped = [rank for rank, process in self._local.items() if _state(process) == "T"]
        silent = [rank for rank in ranks if self._reports[rank] == SILENT]
        alone = [
            rank
            for rank in ranks
            if doing[rank] == READING or (doing[rank] == CHECKPOINT and rank == 0)
        ]
        chosen = stopped or self._asleep(limit / 2) or silent or alone or ranks
        oldest = min(self._changed[rank] for rank in chosen)
        return [rank for rank in chosen if self._changed[rank] <= oldest + 2 * POLL]

    def _asleep(self, limit: float) -> list[int]:
        """Find the ranks that were in state D at every poll since, and made no progress either."""
        return [
            rank
            for rank, since in self._uninterruptible.items()
            if self._clock - max(since, self._changed[rank]) > limit
        ]


def _subject(ranks: Sequence[int], one: str, several: str) -> str:
    """Name ranks, with the verb that follows."""
    names = few_of(ranks, most=8)
    return f"rank {names} {one}" if len(ranks) == 1 else f"ranks {names} {several}"


def _state(process: int) -> str:
    """Read a process's state, a letter (see `man 5 proc_pid_stat`); "" if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
