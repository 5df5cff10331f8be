"""Processes and requests that may crash, hang or be slow, without harm to the doctor."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from drn_cli.formatting import first_line
from drn_cli.interrupts import defer_interrupts
from drn_cli.version import __version__

POLL = 0.02  # seconds
# Enough for a busy machine. What still is not finished then is slow, which is no failure.
TIMEOUT = 300.0  # seconds
SMI_TIMEOUT = 20.0  # seconds: a driver that is not in use takes a while
PATIENCE = timedelta(seconds=60)  # of a rank with the other one, once both have imported torch
NUMBERS = 1 << 20
AGENT = {"User-Agent": f"drn/{__version__}"}


class ProcessResult(NamedTuple):
    """How a process ended."""

    code: int | None  # exit code, minus the signal that killed it, or None if it ran out of time
    text: str  # stdout and stderr

    @property
    def last_line(self) -> str:
        """The last line that it printed, where Python names the exception."""
        lines = self.text.strip().splitlines()
        return lines[-1].strip() if lines else f"no output, exit code {self.code}"


def python(code: str) -> tuple[str, ...]:
    """Return the command that runs `code` in this Python, without modules of the current folder.

    The kernel kills that process when this one ends, however it ends (prctl PR_SET_PDEATHSIG).
    """
    return (sys.executable, "-P", "-c", f"import ctypes; ctypes.CDLL(None).prctl(1, 9)\n{code}")


def run_together(
    commands: Sequence[Sequence[str]], timeout: float, *, all_or_none: bool = False
) -> list[ProcessResult]:
    """Run commands concurrently and kill those that exceed the time, with their own children.

    `timeout` is in seconds, for all of them; with `all_or_none`, the first failure ends the others.
    """
    with ExitStack() as stack:
        # Files, unlike pipes, are never full.
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands]
        # The stacks that a fault handler prints would hide how a process ended.
        quiet = os.environ | {"PYTHONFAULTHANDLER": ""}
        streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        start = partial(subprocess.Popen, process_group=0, env=quiet)
        running: list[subprocess.Popen[Any]] = []
        stack.callback(_kill, running)  # on Ctrl-C as well
        with defer_interrupts():  # else one that has just started would be in no list
            for command, output in zip(commands, outputs, strict=True):
                running.append(start(command, stdout=output, **streams))
        end = time.monotonic() + timeout
        codes = [process.poll() for process in running]
        while None in codes and time.monotonic() < end and not (all_or_none and any(codes)):
            time.sleep(POLL)
            codes = [process.poll() for process in running]
        _kill(running)
        results = []
        for code, output in zip(codes, outputs, strict=True):
            output.seek(0)
            results.append(ProcessResult(code, output.read().decode(errors="replace")))
        return results


def _kill(processes: Sequence[subprocess.Popen[Any]]) -> None:
    with defer_interrupts():  # nor does a second Ctrl-C leave one behind
        for process in processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def import_all(
    modules: Mapping[str, Sequence[str]], timeout: float
) -> tuple[dict[str, str], list[str]]:
    """Import modules in a process for each name; return what fails, with its error, and is slow."""
    commands = [python(f"import {', '.join(names)}") for names in modules.values()]
    results = dict(zip(modules, run_together(commands, timeout), strict=True))
    broken = {name: result.last_line for name, result in results.items() if result.code}
    return broken, [name for name, result in results.items() if result.code is None]


def nvidia_driver() -> tuple[int, str | None, str | None]:
    """Return the number of NVIDIA GPUs, the driver's version, and the newest CUDA it supports.

    Where there is no `nvidia-smi`, as in some containers, the devices are counted.
    """
    collect_env: Any = import_module("torch.utils.collect_env")  # which has no types

    def run(command: str) -> tuple[int | None, str, str]:  # collect_env's own has no timeout
        try:
            [result] = run_together([shlex.split(command)], SMI_TIMEOUT)
        except OSError:
            return 127, "", ""
        return result.code, result.text, ""

    names = collect_env.get_gpu_info(run)
    if not names:
        return sum(1 for _ in Path("/dev").glob("nvidia[0-9]*")), None, None
    newest = collect_env.run_and_parse_first_match(
        run, collect_env.get_nvidia_smi(), r"CUDA[\w ]* Version:\s*([\d.]+)"
    )
    return len(names.splitlines()), collect_env.get_nvidia_driver_version(run), newest


def environment() -> dict[str, Any] | None:
    """Return the version table of `torch.utils.collect_env`; None if it cannot be collected."""
    code = "import json; from torch.utils.collect_env import get_env_info as info\n"
    [result] = run_together([python(f"{code}print(json.dumps(info()._asdict()))")], TIMEOUT)
    return dict(json.loads(result.last_line)) if result.code == 0 else None


def all_reduce_probe(backend: Literal["gloo", "nccl"], timeout: float) -> float:
    """Sum a million numbers over two processes, and return the milliseconds that it took.

    Raises:
        RuntimeError: A process failed, or its sum is wrong.
        TimeoutError: One waited for the other in vain, or did not finish within `timeout` seconds.
    """
    from torch._C._distributed_c10d import TCPStore  # public, but exported nowhere

    # This process holds the store, so that its port is never taken. The ranks look for it under
    # the host name, as those of torchrun do.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
    place = f"{socket.getfqdn()!r}, {store.port}, {timeout}"
    code = "from drn_cli.doctor.probes import all_reduce; all_reduce"
    ranks = [python(f"{code}({backend!r}, {rank}, {place})") for rank in range(2)]
    results = run_together(ranks, timeout, all_or_none=True)
    for rank, result in enumerate(results):  # the rank that failed, not the one that waits for it
        if result.code:
            said = re.search(r"^failed: (.*)$", result.text, re.MULTILINE)
            problem = said[1] if said else result.last_line
            late = re.search(r"timed? ?out", problem, re.IGNORECASE)
            raise (TimeoutError if late else RuntimeError)(f"rank {rank} failed: {problem}")
    took = 0.0
    for rank, result in enumerate(results):
        if result.code is None:
            raise TimeoutError(f"rank {rank} did not finish within {timeout:g} s")
        answer = re.search(r"^sums (\S+) (\S+) in (\S+) ms$", result.text, re.MULTILINE)
        if answer is None or answer[1] != "3" or answer[2] != "3":
            raise RuntimeError(f"rank {rank} sums 1 and 2, and prints {result.last_line}")
        took = max(took, float(answer[3]))
    return took


def all_reduce(backend: str, rank: int, host: str, port: int, timeout: float) -> None:
    """Sum 1 of rank 0 and 2 of rank 1, a million times, and print the result and its time."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore

    device = torch.device("cpu") if backend == "gloo" else torch.device("cuda", rank)
    try:
        store = TCPStore(host, port, timeout=PATIENCE)
        # Importing torch may take one of them much longer on a busy machine.
        store.set(f"ready {rank}", "")
        store.wait(["ready 0", "ready 1"], timedelta(seconds=timeout))
        if backend == "nccl":
            torch.cuda.set_device(device)
        dist.init_process_group(backend, store=store, rank=rank, world_size=2, timeout=PATIENCE)
        dist.all_reduce(torch.zeros(1, device=device))  # connects, which takes its own time
        numbers = torch.full((NUMBERS,), float(rank + 1), device=device)
        start = time.perf_counter()
        dist.all_reduce(numbers)
        low, high = numbers.min().item(), numbers.max().item()
        took = time.perf_counter() - start
        dist.destroy_process_group()
    except RuntimeError as error:
        sys.exit(f"failed: {str(error).splitlines()[0]}")
    print(f"sums {low:g} {high:g} in {1000 * took:.1f} ms")


def head(urls: Sequence[str], timeout: float) -> dict[str, str]:
    """Request the headers of all URLs concurrently; return the problem of each, or ""."""
    problems = dict.fromkeys(urls, f"no answer within {timeout:g} s")

    def request(url: str, method: str = "HEAD") -> str:
        try:
            with urlopen(Request(url, method=method, headers=AGENT), timeout=timeout):
                return ""
        except HTTPError as error:
            error.close()
            if method == "HEAD" and error.code in (405, 501):
                return request(url, "GET")
            return f"HTTP {error.code}"
        except URLError as error:
            return str(getattr(error.reason, "strerror", None) or error.reason)
        except (OSError, HTTPException, ValueError) as error:
            return first_line(error)

    # A look-up of a host name cannot be interrupted: such threads are left to themselves.
    threads = [
        threading.Thread(target=lambda url=url: problems.update({url: request(url)}), daemon=True)
        for url in problems
    ]
    end = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(problems)
