"""Progress of the ranks: reported to the store by their work, watched by the agent beside it.

A rank can hang without an end: stopped (SIGSTOP), or waiting for a file system that is gone. The
others then wait for it in the next exchange of gradients. A thread for the heartbeat alone would
miss the file system, so the work itself reports: each batch read, each pass, validation image and
checkpoint.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch._C._distributed_c10d import Store  # public, but nowhere exported

READING, TRAINING, COMPILATION = "reading data", "training", "compilation"
VALIDATION, CHECKPOINT = "validation", "checkpoint"

COMPILING = 1800.0  # seconds without progress that a compilation may take at least
POLL = 1.0  # seconds between two looks at the store
GRACE = 60.0  # seconds that other machines get to end a rank of theirs


def _key(rank: int) -> str:
    return f"drn/progress/{rank}"


class Progress:
    """What one rank reports.

    Args:
        store: Of this attempt of the job.
        rank: Of this process.

    Attributes:
        limit: Seconds without progress of all ranks after which one hangs; None reports nothing.
    """

    def __init__(self, store: Store, rank: int) -> None:
        self._store, self._key = store, _key(rank)
        self._count, self._step, self._doing = 0, 0, ""
        self.limit: float | None = None

    def report(self, doing: str | None, step: int | None) -> None:
        """Report that the work advanced; what and which step stay as they were if None."""
        if self.limit is None:
            return
        self._count += 1
        self._doing = self._doing if doing is None else doing
        self._step = self._step if step is None else step
        limit = max(self.limit, COMPILING) if self._doing == COMPILATION else self.limit
        self._store.set(self._key, json.dumps([self._count, limit, self._step, self._doing]))


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
        store: That the ranks report to.
        world: Number of ranks.
        local: Process ids of this machine's ranks.
    """

    def __init__(self, store: Store, world: int, local: Mapping[int, int]) -> None:
        self._store, self._keys = store, [_key(rank) for rank in range(world)]
        self._local = local
        self._reports: list[bytes] = []
        self._changed = [0.0] * world
        self._clock, self._polled = 0.0, time.monotonic()

    def stall(self) -> Stall | None:
        """Return what holds the job up, if nothing advanced for longer than the ranks' limit."""
        now = time.monotonic()
        if now - self._polled < POLL:
            return None
        # Where this process itself was stopped, as by `scontrol suspend`, the ranks were, too.
        self._clock += min(now - self._polled, 5 * POLL)
        self._polled = now
        try:
            if self._reports or self._store.check(self._keys):
                self._compare(self._store.multi_get(self._keys))
        except RuntimeError:  # the store's machine does not answer: nothing advances here either
            pass
        if not self._reports:
            return None
        told = [json.loads(report) for report in self._reports]
        limit = max(limit for _, limit, *_ in told)
        idle = self._clock - max(self._changed)
        if idle <= limit:
            return None
        ranks = self._culprits([doing for *_, doing in told])
        _, _, step, doing = told[ranks[0]]
        names = f"rank {ranks[0]} has" if len(ranks) == 1 else f"ranks {_listed(ranks)} have"
        seconds = self._clock - self._changed[ranks[0]]
        text = f"{names} made no progress for {seconds:.0f} s (last: step {step}, {doing})"
        return Stall(tuple(ranks), text, idle - limit)

    def _compare(self, reports: Sequence[bytes]) -> None:
        for rank, report in enumerate(reports):
            if not self._reports or report != self._reports[rank]:
                self._changed[rank] = self._clock
        self._reports = list(reports)

    def _culprits(self, doing: Sequence[str]) -> list[int]:
        """Choose the ranks that the others wait for.

        A process that cannot run is one for certain. One that reads data waits for no other rank,
        nor does rank 0 that writes a checkpoint. Of the rest, those that advanced longest ago.
        """
        ranks = list(range(len(doing)))
        halted = [rank for rank, process in self._local.items() if is_halted(process)]
        alone = [
            rank
            for rank in ranks
            if doing[rank] == READING or (doing[rank] == CHECKPOINT and rank == 0)
        ]
        chosen = halted or alone or ranks
        oldest = min(self._changed[rank] for rank in chosen)
        return [rank for rank in chosen if self._changed[rank] <= oldest + 2 * POLL]


def is_halted(process: int) -> bool:
    """Return whether a process is stopped (T), or sleeps where no signal reaches it (D)."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # it is gone
        return False
    return state in ("T", "t", "D")


def _listed(ranks: Sequence[int]) -> str:
    most = 8
    names = ", ".join(map(str, ranks[:most]))
    return f"{names} and {len(ranks) - most} more" if len(ranks) > most else names
