"""torchrun's elastic agent, with forwarded signals, clean restarts and detection of hangs."""

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

from drn_cli.distributed.group import ATTEMPT, FAILED, attempt_store
from drn_cli.distributed.heartbeat import GRACE, Stall, Watch

ANSWER = 10.0  # seconds after a stop signal before a suspended (SIGSTOP) process is killed
STORE = 5.0  # seconds, timeout of the store, which blocks the agent

logger = logging.getLogger(__name__)


class ElasticAgent(LocalElasticAgent):
    """torchrun's agent of one node, with four changes.

    * Stop signals are forwarded to the processes, which may take their time; torchrun kills them
      after 30 seconds and ignores SIGUSR1.
    * Processes that fail after a stop signal, or because of a user error, are not restarted.
    * Each attempt gets an id, which prefixes its keys in the store (see
      `drn_cli.distributed.group.join`). The store outlives a restart, and processes that read the
      addresses of the previous attempt would wait for processes that no longer exist.
    * A process that blocks the others for too long is killed and counts as failed (see
      `drn_cli.distributed.heartbeat`).

    Args:
        spec: Command, number of processes, rendezvous and restarts.
        logs_specs: Folder for torch's logs.
        code_file: File to which a process that must not be restarted writes its exit code.
        stop_signals: Signals that ask the job to stop.

    Attributes:
        received: The first stop signal, if any.
        stall: Why the agent killed a process of the current attempt, if it did.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs,
        code_file: Path,
        stop_signals: Sequence[signal.Signals],
    ) -> None:
        super().__init__(spec, logs_specs)
        self.received: signal.Signals | None = None
        self.stall: Stall | None = None
        self._received_at = 0.0
        self._stop_signals = stop_signals
        self._watch: Watch | None = None
        self._code_file = code_file
        self._failures: dict[int, ProcessFailure] = {}

    def work(self) -> dict[int, ProcessFailure]:
        """Run the processes until they exit, and return those that failed, by rank.

        Raises:
            SignalException: A repeated SIGINT, or a stop signal before the processes have started.
            RendezvousError: The rendezvous failed.
        """
        handler = self.get_worker_group().spec.rdzv_handler
        with self._forwarding_signals():
            try:
                result = self.run()
            except SignalException:
                raise  # the other nodes may continue without this one
            except BaseException:
                handler.shutdown()
                raise
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would leave orphans
                self._shutdown(signal.SIGKILL)
            handler.shutdown()
        return dict(result.failures) if result else {}

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        # torch publishes the address of the store only at the first rendezvous, so a node that
        # joins later would never get it.
        handler: Any = worker_group.spec.rdzv_handler
        handler._bootstrap_store_info = None
        super()._rendezvous(worker_group)
        store: Any = worker_group.store  # new for each attempt, unlike the store of the processes
        if worker_group.group_rank == 0:
            store.set(ATTEMPT, secrets.token_hex(8))
        os.environ[ATTEMPT] = store.get(ATTEMPT).decode()

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._code_file.unlink(missing_ok=True)
        self._failures, self.stall = {}, None
        started: dict[int, Any] = super()._start_workers(worker_group)
        workers = worker_group.workers
        local = {worker.global_rank: started[worker.local_rank] for worker in workers}
        # Without the agent's store, rank 0 serves one, and may be the rank that hangs.
        kept = worker_group.spec.rdzv_handler.use_agent_store
        connect = partial(self._attempt_store, worker_group) if kept else None
        self._watch = Watch(connect, workers[0].world_size, local)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.HEALTHY:
            result = self._kill_stalled(worker_group) or result
        self._failures = result.failures
        if self._failures and self._code_file.is_file():  # it would fail again
            self._remaining_restarts = 0
        return result

    @staticmethod
    def _attempt_store(worker_group: WorkerGroup) -> Any:
        address, port = worker_group.master_addr, worker_group.master_port
        assert address is not None and port is not None
        return attempt_store(os.environ[ATTEMPT], address, int(port), timedelta(seconds=STORE))

    def _kill_stalled(self, worker_group: WorkerGroup) -> RunResult | None:
        """Kill the local processes that have blocked the job for too long, and report them."""
        if self._watch is None:
            return None
        local = {worker.global_rank: worker.id for worker in worker_group.workers}
        stall = self._watch.stall()
        if self.received is not None and time.monotonic() - self._received_at > ANSWER:
            unresponsive = self._watch.unresponsive()
            if unresponsive is not None:
                text = f"{unresponsive.text}, and cannot handle {self.received.name}"
                stall = replace(unresponsive, text=text)
        if stall is None:
            return None
        ranks = [rank for rank in stall.ranks if rank in local]
        if not ranks and stall.overdue < GRACE:
            return None  # the agent of their node kills them
        self.stall = stall
        with suppress(RuntimeError):  # so that no other rank prints that it lost its peer
            self._attempt_store(worker_group).add(FAILED, 1)
        failures = {}
        for rank in ranks or local:
            with suppress(ProcessLookupError):
                os.killpg(local[rank], signal.SIGKILL)  # with its data loader workers
            failures[rank] = ProcessFailure(rank, local[rank], -signal.SIGKILL, "")
        return RunResult(state=WorkerState.FAILED, failures=failures)

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if self.received is not None:  # a node joined or left meanwhile
            raise SignalException("asked to stop", self.received)
        spec = worker_group.spec
        if self._failures:
            rank, failure = first_failure(self._failures)
            logger.warning(
                "%s; restarting all processes (%d of %d)",
                self.stall.text if self.stall else f"rank {rank} {how_it_ended(failure)}",
                spec.max_restarts - self._remaining_restarts,
                spec.max_restarts,
            )
        else:
            logger.warning("another node failed, joined or left; restarting all processes")
        super()._restart_workers(worker_group)

    @contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in self._stop_signals}
        # torch's own handlers, installed while processes start, would exit on a SIGHUP that `nohup`
        # ignores.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
        for number in self._stop_signals:
            signal.signal(number, self._forward)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, _: FrameType | None) -> None:
        """Forward a signal to the processes, which handle it for their data loader workers."""
        again = self.received is not None and number == signal.SIGINT
        if self.received is None:
            self.received, self._received_at = signal.Signals(number), time.monotonic()
        self._remaining_restarts = 0
        delivered = False
        for worker in self.get_worker_group().workers:
            if worker.id is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.id, number)
                    delivered = True
        if again or not delivered:
            raise SignalException("asked to stop", signal.Signals(number))


def first_failure(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return rank and failure of the process that failed first.

    Timestamps are in whole seconds. Within one second, killed processes come before those that
    failed because of them, and those that the agent terminated come last.
    """

    def order(rank: int) -> tuple[int, int]:
        code = failures[rank].exitcode
        return failures[rank].timestamp, 2 if code == -signal.SIGTERM else int(code > 0)

    rank = min(failures, key=order)
    return rank, failures[rank]


def how_it_ended(failure: ProcessFailure) -> str:
    """Return the exit of a process in words: `was killed by SIGKILL`."""
    if failure.exitcode < 0:
        return f"was killed by {signal.Signals(-failure.exitcode).name}"
    return f"exited with code {failure.exitcode}"
