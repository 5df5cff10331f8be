"""torchrun's agent for one machine, which passes signals on and starts anew without leftovers."""

import logging
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed.elastic.agent.server.api import (
    RunResult,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousHandler

from drn_cli.distributed.group import ATTEMPT, FAILED, attempt_store
from drn_cli.distributed.heartbeat import GRACE, Stall, Watch

ANSWER = 10.0  # seconds after a stop signal in which a stopped process may be continued
STORE = 5.0  # seconds that the agent waits for the store, and for nothing else meanwhile

logger = logging.getLogger(__name__)


def worker_spec(
    program: str,
    words: Sequence[str],
    processes: int,
    meeting: RendezvousHandler,
    restarts: int,
) -> WorkerSpec:
    """Say what the agent has to run.

    Args:
        program: What is started in each process.
        words: Its command line.
        processes: How many on this machine.
        meeting: Where they meet those of other machines.
        restarts: How often all are started again after one has failed.
    """
    return WorkerSpec(
        role="drn",
        local_world_size=processes,
        rdzv_handler=meeting,
        entrypoint=program,
        args=tuple(words),
        max_restarts=restarts,
    )


class ElasticAgent(LocalElasticAgent):
    """torchrun's agent, of which four things are changed.

    * A signal that asks the job to stop is passed on to the processes, and the agent goes on
      watching them. torchrun's own would give them 30 seconds and leave, and know no SIGUSR1.
    * Processes that fail after such a signal, or through a mistake of the user's, are not started
      again.
    * Each attempt gets a name, by which its processes keep apart what they write into the store
      (see `drn_cli.distributed.group.join`). The store outlives a restart, and processes that
      find the addresses of the attempt before wait for the dead.
    * A process that holds the others up for too long is killed, and counts as failed (see
      `drn_cli.distributed.heartbeat`).

    Args:
        spec: What to run.
        logs_specs: Where torch may write.
        code_file: Where a process that is not to be started again leaves its exit code.
        stop_signals: What asks the job to stop.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs,
        code_file: Path,
        stop_signals: Sequence[signal.Signals],
    ) -> None:
        super().__init__(spec, logs_specs)
        self.asked: signal.Signals | None = None
        self.stall: Stall | None = None
        self._asked_at = 0.0
        self._stop_signals = stop_signals
        self._watch: Watch | None = None
        self._code_file = code_file
        self._failures: dict[int, ProcessFailure] = {}

    def work(self) -> dict[int, ProcessFailure]:
        """Run the processes to their end; give those that failed by their rank.

        Raises:
            SignalException: A signal came that cannot wait for the processes.
            RendezvousError: The machines did not meet.
        """
        handler = self.get_worker_group().spec.rdzv_handler
        with self._signals_passed_on():
            try:
                result = self.run()
            except SignalException:
                raise  # the other machines may go on without this one
            except BaseException:
                handler.shutdown()
                raise
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # the next would leave orphans
                self._shutdown(signal.SIGKILL)
            handler.shutdown()
        return dict(result.failures) if result else {}

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        # torch remembers where the processes met at first and does not say it again, so that a
        # machine that comes later would never learn it.
        meeting: Any = worker_group.spec.rdzv_handler
        meeting._bootstrap_store_info = None
        super()._rendezvous(worker_group)
        store: Any = worker_group.store  # one an attempt, unlike that of the processes
        if worker_group.group_rank == 0:
            store.set(ATTEMPT, secrets.token_hex(8))
        os.environ[ATTEMPT] = store.get(ATTEMPT).decode()

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._code_file.unlink(missing_ok=True)
        self._failures, self.stall = {}, None
        started: dict[int, Any] = super()._start_workers(worker_group)
        self._watch = self._watch_over(worker_group, started)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.HEALTHY:
            result = self._end_stalled(worker_group) or result
        self._failures = result.failures
        if self._failures and self._code_file.is_file():  # it would fail again
            self._remaining_restarts = 0
        return result

    def _watch_over(self, worker_group: WorkerGroup, started: Mapping[int, int]) -> Watch:
        workers = worker_group.workers
        local = {worker.global_rank: started[worker.local_rank] for worker in workers}
        # Without the agent's store, the first process holds one, and may be the one that hangs.
        kept = worker_group.spec.rdzv_handler.use_agent_store
        connect = partial(self._attempt_store, worker_group) if kept else None
        return Watch(connect, workers[0].world_size, local)

    @staticmethod
    def _attempt_store(worker_group: WorkerGroup) -> Any:
        address, port = worker_group.master_addr, worker_group.master_port
        assert address is not None and port is not None
        return attempt_store(os.environ[ATTEMPT], address, int(port), timedelta(seconds=STORE))

    def _end_stalled(self, worker_group: WorkerGroup) -> RunResult | None:
        """Kill the processes of this machine that hold the job up, if it was for too long."""
        local = {worker.global_rank: worker.id for worker in worker_group.workers}
        stall = self._watch.stall() if self._watch is not None else None
        if self.asked is not None and time.monotonic() - self._asked_at > ANSWER:
            deaf = self._watch.deaf() if self._watch is not None else None
            if deaf is not None:
                stall = replace(deaf, text=f"{deaf.text}, and cannot answer {self.asked.name}")
        if stall is None:
            return None
        ranks = [rank for rank in stall.ranks if rank in local]
        if not ranks and stall.overdue < GRACE:
            return None  # the machine of those ranks ends them
        self.stall = stall
        with suppress(RuntimeError):  # the others, which miss them, need not say so
            self._attempt_store(worker_group).add(FAILED, 1)
        failures = {}
        for rank in ranks or local:
            with suppress(ProcessLookupError):
                os.killpg(local[rank], signal.SIGKILL)  # with its data loader workers
            failures[rank] = ProcessFailure(rank, local[rank], -signal.SIGKILL, "")
        return RunResult(state=WorkerState.FAILED, failures=failures)

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if self.asked is not None:  # a machine came or went meanwhile
            raise SignalException("asked to stop", self.asked)
        spec = worker_group.spec
        if self._failures:
            rank, failure = first_failure(self._failures)
            logger.warning(
                "%s; all start again (%d of %d)",
                self.stall.text if self.stall else f"process {rank} {ending(failure)}",
                spec.max_restarts - self._remaining_restarts,
                spec.max_restarts,
            )
        else:
            logger.warning("another machine failed, came or went; all processes start again")
        super()._restart_workers(worker_group)

    @contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in self._stop_signals}
        # torch's handlers, which stand while processes are started, would end the agent by a
        # SIGHUP that `nohup` has it ignore.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
        self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self) -> None:
        for number in self._stop_signals:
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        again = self.asked is not None and number == signal.SIGINT
        if self.asked is None:
            self.asked, self._asked_at = signal.Signals(number), time.monotonic()
        self._remaining_restarts = 0
        told = [self._tell(worker.id, number) for worker in self.get_worker_group().workers]
        if again or not any(told):
            raise SignalException("asked to stop", signal.Signals(number))

    @staticmethod
    def _tell(process: int | None, number: int) -> bool:
        """Pass a signal on to a process, not to its reading processes; tell if it was there."""
        if process is None:
            return False
        try:
            os.kill(process, number)
        except ProcessLookupError:
            return False
        return True


def first_failure(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Find the rank and the end of the process that failed first.

    Times are whole seconds. Within one, a process that was killed comes before those that
    missed it, and those that the agent ended come last.
    """

    def order(rank: int) -> tuple[int, int]:
        code = failures[rank].exitcode
        return failures[rank].timestamp, 2 if code == -signal.SIGTERM else int(code > 0)

    rank = min(failures, key=order)
    return rank, failures[rank]


def ending(failure: ProcessFailure) -> str:
    """Say how a process ended."""
    if failure.exitcode < 0:
        return f"was ended by {signal.Signals(-failure.exitcode).name}"
    return f"ended with exit code {failure.exitcode}"
