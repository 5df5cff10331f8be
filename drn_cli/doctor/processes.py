"""Two processes that really work together, as they do when a network is trained in several."""

import re
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from drn_cli.doctor.children import Ending, python, run_together
from drn_cli.doctor.finding import Finding

# Longer than the processes' patience with each other, which begins when they have imported torch.
TIMEOUT = 300.0  # seconds
ADDITION = python("-m", "drn_cli.doctor.addition")

REMEDIES = {
    "gloo": "name the network interface, which on a single machine may be GLOO_SOCKET_IFNAME=lo; "
    "does this machine's name lead to it, and does a firewall or VPN let it talk to itself?",
    "nccl": "NCCL_DEBUG=WARN drn doctor tells more; try NCCL_P2P_DISABLE=1, or name the network "
    "interface: NCCL_SOCKET_IFNAME=lo",
}


def gloo() -> Finding:
    return trial("gloo")


def nccl() -> Finding:
    """Try NCCL where two processes can have a GPU each."""
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count()
    if gpus == 0:
        return Finding("NCCL", "ok", "not tried: no GPU")
    if gpus == 1:
        return Finding("NCCL", "ok", "not tried: it needs two GPUs, and here is one")
    if not dist.is_nccl_available():
        return Finding(
            "NCCL",
            "failure",
            f"this torch is built without it, and there are {gpus} GPUs",
            "install torch for CUDA: https://pytorch.org/get-started/locally has the command",
        )
    return trial("nccl")


def trial(
    backend: Literal["gloo", "nccl"],
    addition: Sequence[str] = ADDITION,
    timeout: float = TIMEOUT,
) -> Finding:
    """Let two processes add numbers up.

    Args:
        backend: What they talk through.
        addition: The command that does one process's part.
        timeout: Seconds after which they count as hanging.
    """
    from torch._C._distributed_c10d import TCPStore  # public, but nowhere exported

    # We hold the place where they meet, so that its port is never taken; torchrun's processes
    # look for it under the same name.
    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30)
    )
    host = socket.getfqdn()
    commands = [[*addition, backend, str(rank), host, str(store.port)] for rank in range(2)]
    endings = run_together(commands, timeout, all_or_none=True)
    name = "NCCL" if backend == "nccl" else backend
    problem = _problem(endings, timeout)
    if problem is not None:
        return Finding(name, "failure", f"two processes: {problem}", REMEDIES[backend])
    took = max(map(_took, endings))
    return Finding(name, "ok", f"two processes added a million numbers up in {took:g} ms")


_ANSWER = re.compile(r"^sums (\S+) (\S+) in (\S+) ms$", re.MULTILINE)


def _problem(endings: Sequence[Ending], timeout: float) -> str | None:
    # A process that failed says more than one that waited for it in vain.
    for rank, ending in enumerate(endings):
        if ending.code:
            told = re.search(r"^failed: (.*)$", ending.text, re.MULTILINE)
            return f"process {rank} failed: {told[1] if told else ending.last_line}"
    for rank, ending in enumerate(endings):
        if ending.code is None:
            said = f", after {ending.last_line!r}" if ending.text.strip() else ""
            return f"process {rank} did not answer within {timeout:g} seconds{said}"
        answer = _ANSWER.search(ending.text)
        if answer is None:
            return f"process {rank} gave no answer: {ending.last_line}"
        if answer[1] != "3" or answer[2] != "3":
            return f"process {rank} found 1 + 2 to be {answer[1]} to {answer[2]}"
    return None


def _took(ending: Ending) -> float:
    answer = _ANSWER.search(ending.text)
    assert answer is not None
    return float(answer[3])
