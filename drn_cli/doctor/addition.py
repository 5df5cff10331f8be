"""One of two processes that add numbers up, to see whether processes can work together.

`processes` starts it: `python -m drn_cli.doctor.addition BACKEND RANK HOST PORT`.
"""

import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore  # public, but nowhere exported

PATIENCE = timedelta(seconds=30)  # with the other process
NUMBERS = 1 << 20


def add_up(backend: str, rank: int, host: str, port: int) -> str:
    """Add 1 of process 0 and 2 of process 1, a million times, and say what came out."""
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    store = TCPStore(host, port, timeout=PATIENCE)
    dist.init_process_group(backend, store=store, rank=rank, world_size=2, timeout=PATIENCE)
    try:
        dist.all_reduce(torch.zeros(1, device=device))  # to connect takes its own time
        numbers = torch.full((NUMBERS,), float(rank + 1), device=device)
        start = time.perf_counter()
        dist.all_reduce(numbers)
        least, most = numbers.min().item(), numbers.max().item()
        took = time.perf_counter() - start
    finally:
        dist.destroy_process_group()
    return f"sums {least:g} {most:g} in {1000 * took:.1f} ms"


if __name__ == "__main__":
    given, number, place, at = sys.argv[1:]
    try:
        print(add_up(given, int(number), place, int(at)))
    except RuntimeError as failure:
        sys.exit(f"failed: {str(failure).splitlines()[0]}")
