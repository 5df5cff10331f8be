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
def test_rejects_malformed_endpoints(endpoint):
    with pytest.raises(DrnError, match="not HOST:PORT"):
        host_and_port(endpoint)


def test_the_rendezvous_host_keeps_the_name_of_the_endpoint():
    assert local_address_for("localhost", 29500) == "localhost"
    assert local_address_for("127.0.0.1", 29500) == "127.0.0.1"


def test_other_nodes_use_the_address_of_the_interface_to_the_host(monkeypatch):
    """One of two loopback addresses stands for another node."""
    real = socket.socket.getpeername
    monkeypatch.setattr(
        "drn_cli.distributed.launch.socket.socket",
        type("Elsewhere", (socket.socket,), {"getpeername": lambda s: ("10.0.0.7", real(s)[1])}),
    )
    assert local_address_for("localhost", 29500) in ("127.0.0.1", "::1")


def test_an_unknown_host_is_an_error():
    options = LaunchOptions(nnodes="2", rdzv_endpoint="no.such.host.invalid")
    with pytest.raises(DrnError, match=r"--rdzv-endpoint no\.such\.host\.invalid:29500: "):
        rendezvous_config(options)


def test_jobs_on_one_node_have_different_ids():
    first, second = (rendezvous_config(LaunchOptions(gpus=2)) for _ in range(2))
    assert first.run_id != second.run_id
    assert first.endpoint == second.endpoint == "localhost:0"  # a free port


def test_nodes_meet_by_job_id():
    options = {"nnodes": "1:3", "rdzv_endpoint": "localhost:77"}
    config = rendezvous_config(LaunchOptions(**options, rdzv_id="cityscapes"))
    assert (config.backend, config.endpoint, config.run_id) == (
        "c10d",
        "localhost:77",
        "cityscapes",
    )
    assert (config.min_nodes, config.max_nodes) == (1, 3)
    assert rendezvous_config(LaunchOptions(**options)).run_id == "drn"
