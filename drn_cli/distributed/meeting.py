"""Where the machines of a job meet, in torchrun's terms, and what is said when they do not."""

import re
import socket
import uuid
from typing import TYPE_CHECKING

from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from torch.distributed.elastic.rendezvous import RendezvousParameters

    from drn_cli.distributed.launch import LaunchOptions

PORT = 29500  # torchrun's, where none is given


def meeting_of(options: "LaunchOptions") -> "RendezvousParameters":
    """Say in torchrun's terms where the processes meet.

    Raises:
        DrnError: The place is not of the form HOST[:PORT], or there is no such host.
    """
    from torch.distributed.elastic.rendezvous import RendezvousParameters

    least, most = options.machines
    if most == 1 and options.master_port is None:
        # A free port, chosen as it is taken: two runs on one machine never collide.
        return RendezvousParameters("c10d", "localhost:0", str(uuid.uuid4()), 1, 1)
    if most == 1:
        endpoint = f"127.0.0.1:{options.master_port}"
        return RendezvousParameters("static", endpoint, str(uuid.uuid4()), 1, 1, rank=0)
    host, port = host_and_port(options.rdzv_endpoint or "")
    address = address_towards(host, port)
    where = ("c10d" if options.node_rank is None else "static", f"{host}:{port}", _job(options))
    if options.node_rank is not None:
        return RendezvousParameters(*where, least, most, rank=options.node_rank)
    return RendezvousParameters(*where, least, most, local_addr=address)


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Take HOST or HOST:PORT apart; an IPv6 address stands in brackets.

    Raises:
        DrnError: It is neither.
    """
    found = re.fullmatch(r"(\[[^\]]+\]|[^:\s]+)(?::(\d{1,5}))?", endpoint)
    if found is None:
        raise DrnError(f"--rdzv-endpoint {endpoint}: not of the form HOST:PORT")
    return found[1], int(found[2] or PORT)


def address_towards(host: str, port: int) -> str:
    """Give the address under which a host, and whoever reaches that host, reaches this machine.

    torch would give this machine's own name, which others often do not know, or know as theirs:
    `localhost`. Nothing is sent.

    Raises:
        DrnError: The host is not known here, or cannot be reached from here.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(place)
            mine, theirs = probe.getsockname()[0], probe.getpeername()[0]
    except OSError as error:
        raise DrnError(
            f"--rdzv-endpoint {host}:{port}: {error.strerror or error}",
            "it has to be the name or address of one of the machines",
        ) from error
    # The machine that is the host goes by the name that all were given.
    return host if mine == theirs else str(mine)


def did_not_meet(options: "LaunchOptions", error: Exception) -> DrnError:
    """Say why the processes did not meet, or did not meet again after a failure."""
    from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousTimeoutError

    place = options.rdzv_endpoint or f"127.0.0.1:{options.master_port or 0}"
    if isinstance(error, RendezvousClosedError):
        return DrnError(
            f"{place}: the job {_job(options)!r} has ended on another machine",
            "a new one needs another --rdzv-id",
        )
    text = next(iter(str(error).splitlines()), type(error).__name__)
    if "EADDRINUSE" in text:
        return DrnError(f"{place}: the port is in use", "choose another")
    if isinstance(error, RendezvousTimeoutError):
        text = f"fewer machines came than --nnodes {options.nnodes} says"
    hint = "is the same said on all machines, and can they reach it?" if options.nnodes else None
    return DrnError(f"{place}: the processes did not meet: {text}", hint)


def _job(options: "LaunchOptions") -> str:
    return options.rdzv_id or "drn"
