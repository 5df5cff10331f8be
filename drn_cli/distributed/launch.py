"""Start many processes of `drn` on this machine, through torchrun's own agent."""

import logging
import os
import signal
from collections.abc import Sequence

import torch

from drn_cli.errors import DrnError


def check_gpus(processes: int) -> None:
    """See that every process gets a GPU of its own, or that there is none at all.

    Raises:
        DrnError: There are GPUs, but too few.
    """
    there = torch.cuda.device_count()
    if 0 < there < processes:
        raise DrnError(f"--gpus {processes}: this machine has {there}", f"--gpus {there}")


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `drn ARGUMENTS` in several processes that form one job, and wait for them.

    Args:
        arguments: The command line after `drn`.
        processes: How many; one to a GPU, or all on the CPU where there is none.

    Returns:
        The exit code: 0, or that of the process that failed first.

    Raises:
        DrnError: A process was killed by a signal.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    check_gpus(processes)
    # Left alone, torchrun gives each process a single thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    # The processes say themselves what went wrong; the agent would say it again, at length.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = ["--standalone", "--nproc-per-node", str(processes), "-m", "drn_cli"]
    try:
        run(parse_args([*options, *arguments]))
    except SignalException as received:
        return 128 + received.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            hint = "was memory short?" if name == "SIGKILL" else None
            raise DrnError(f"process {rank} was ended by {name}", hint) from error
        return int(failure.exitcode)
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0))
