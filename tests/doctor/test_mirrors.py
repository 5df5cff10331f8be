"""Servers on this machine that answer, refuse, hang, or do not exist."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from drn_cli.doctor.checks import DoctorResult, check_mirrors
from drn_cli.networks.published import WeightFile, published

Serve = Callable[..., tuple[str, list[str]]]


@pytest.fixture(autouse=True)
def no_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRN_MIRRORS", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that has files of some names; return its address and its requests."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(*names: str, head: int = 200, otherwise: int = 404) -> tuple[str, list[str]]:
        requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(f"{self.command} {self.path}")
                name = self.path.rpartition("/")[2]
                self.send_response(200 if name in names else otherwise)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_HEAD(self) -> None:
                if head == 200:
                    self.do_GET()
                else:
                    self.send_error(head)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", requests

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def dead() -> Iterator[str]:
    """An address at which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def file(name: str, address: str, arch: str = "drn_d_22") -> WeightFile:
    return replace(published(arch)[0], name=name, urls=(f"{address}/{name}",), archived=False)


def check(*files: WeightFile, timeout: float = 5.0) -> list[DoctorResult]:
    return list(check_mirrors(files, timeout))


def test_public_servers(serve: Serve, dead: str) -> None:
    address, requests = serve("a.pth", "b.pth")
    [result] = check(file("a.pth", address), file("b.pth", address))
    assert result == DoctorResult(f"server {address.removeprefix('http://')}", "ok", "answers")
    assert requests == ["HEAD /a.pth"]  # one request a server
    [result] = check(file("a.pth", dead), file("b.pth", dead, "drn_c_26"))
    assert result[1:3] == (
        "warning",
        "Connection refused: no other server has weights for drn_c_26, drn_d_22",
    )
    assert "DRN_MIRRORS" in str(result.remedy)
    first, second = check(file("a.pth", dead), file("b.pth", address))
    assert first[1:3] == ("ok", "Connection refused, but others have the same weights")
    assert second.status == "ok"
    # Other weights of the same network are not the same weights.
    other = replace(file("b.pth", address), kind="retrained")
    assert [result.status for result in check(file("a.pth", dead), other)] == ["warning", "ok"]


def test_own_mirrors(serve: Serve, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address, requests = serve("a.pth")
    monkeypatch.setenv("DRN_MIRRORS", f"{address}/drn/")
    mirror, server = check(file("a.pth", dead), file("b.pth", dead, "drn_c_26"))
    assert mirror == (f"mirror {address}/drn/", "ok", "has 1 of 2 published files", None)
    assert sorted(requests) == ["HEAD /drn/a.pth", "HEAD /drn/b.pth"]
    assert server.status == "warning"
    assert server.found.endswith("no other server has weights for drn_c_26")

    empty, _ = serve()
    monkeypatch.setenv("DRN_MIRRORS", f"{empty} {dead} no-address")
    results = check(file("a.pth", address))
    assert [result.status for result in results] == ["warning", "warning", "warning", "ok"]
    assert results[0].found == "no published file: HTTP 404"
    assert results[1].found == "no published file: Connection refused"
    assert "unknown url type" in results[2].found
    assert all("DRN_MIRRORS" in str(result.remedy) for result in results[:3])


def test_answers_of_servers(serve: Serve) -> None:
    address, requests = serve("a.pth", head=501)
    assert check(file("a.pth", address))[0].status == "ok"
    assert requests == ["GET /a.pth"]
    address, requests = serve(otherwise=503)
    assert check(file("a.pth", address))[0].found.startswith("HTTP 503: ")
    assert requests == ["HEAD /a.pth"]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and sends nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = check(file("a.pth", url), timeout=0.3)[0].found
    assert found.startswith(("timed out: ", "no answer within 0.3 s: "))


def test_a_silent_name_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def silent(*_: object) -> None:
        over.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    found = check(file("a.pth", "http://example.invalid"), timeout=0.1)[0].found
    over.set()
    assert found.startswith("no answer within 0.1 s: ")
