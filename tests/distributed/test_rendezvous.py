import socket

import pytest

from drn_cli.distributed.launch import (
    LaunchOptions,
    host_and_port,
    local_address_for,
    rendezvous_config,
)
from drn_cli.errors import DrnError


@pytest.mark.parametrize(
    ("endpoint", "host", "port"),
    [
        ("head", "head", 29500),
        ("head.cluster:1234", "head.cluster", 1234),
        ("10.0.0.7:29500", "10.0.0.7", 29500),
        ("[fe80::1]:29500", "[fe80::1]", 29500),
    ],
)
def test_host_and_port(endpoint, host, port):
    assert host_and_port(endpoint) == (host, port)


@pytest.mark.parametrize("endpoint", ["", "head:", ":1", "a b:1", "fe80::1", "head:port"])
def test_not_an_endpoint(endpoint):
    with pytest.raises(DrnError, match="not of the form HOST:PORT"):
        host_and_port(endpoint)


def test_the_host_goes_by_the_name_that_all_were_given():
    assert local_address_for("localhost", 29500) == "localhost"
    assert local_address_for("127.0.0.1", 29500) == "127.0.0.1"


def test_others_go_by_the_address_that_faces_the_host(monkeypatch):
    """Of two loopback addresses, one stands for another machine."""
    real = socket.socket.getpeername
    monkeypatch.setattr(
        "drn_cli.distributed.launch.socket.socket",
        type("Elsewhere", (socket.socket,), {"getpeername": lambda s: ("10.0.0.7", real(s)[1])}),
    )
    assert local_address_for("localhost", 29500) in ("127.0.0.1", "::1")


def test_an_unknown_host_is_told_at_once():
    options = LaunchOptions(nnodes="2", rdzv_endpoint="no.such.host.invalid")
    with pytest.raises(DrnError, match=r"--rdzv-endpoint no\.such\.host\.invalid:29500: "):
        rendezvous_config(options)


def test_jobs_on_one_machine_have_names_of_their_own():
    first, second = (rendezvous_config(LaunchOptions(gpus=2)) for _ in range(2))
    assert first.run_id != second.run_id
    assert first.endpoint == second.endpoint == "localhost:0"  # a free port


def test_machines_find_each_other_by_the_name_of_the_job():
    options = {"nnodes": "1:3", "rdzv_endpoint": "localhost:77"}
    meeting = rendezvous_config(LaunchOptions(**options, rdzv_id="cityscapes"))
    assert (meeting.backend, meeting.endpoint, meeting.run_id) == (
        "c10d",
        "localhost:77",
        "cityscapes",
    )
    assert (meeting.min_nodes, meeting.max_nodes) == (1, 3)
    assert rendezvous_config(LaunchOptions(**options)).run_id == "drn"
