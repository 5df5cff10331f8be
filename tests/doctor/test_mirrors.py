"""Servers on this machine that answer, refuse, hang, or are not there."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from drn_cli.doctor.finding import Finding
from drn_cli.doctor.mirrors import ask, reachable
from drn_cli.networks.published import WeightFile, published

Serve = Callable[..., tuple[str, list[str]]]


@pytest.fixture(autouse=True)
def no_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRN_MIRRORS", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that has files of some names; give its address and what it was asked."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(*names: str, head: bool = True, otherwise: int = 404) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.command} {self.path}")
                name = self.path.rpartition("/")[2]
                self.send_response(200 if name in names else otherwise)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_HEAD(self) -> None:
                if head:
                    self.do_GET()
                else:
                    self.send_error(501)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def dead() -> Iterator[str]:
    """An address where nobody listens, and nobody will meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def file(name: str, address: str, arch: str = "drn_d_22") -> WeightFile:
    return replace(published(arch)[0], name=name, urls=(f"{address}/{name}",), archived=False)


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1
    return findings[0]


def test_a_server_is_asked_once(serve: Serve) -> None:
    address, asked = serve("a.pth", "b.pth")
    finding = only(reachable([file("a.pth", address), file("b.pth", address)]))
    assert finding == Finding(f"server {address.removeprefix('http://')}", "ok", "answers")
    assert asked == ["HEAD /a.pth"]


def test_a_dead_server(dead: str) -> None:
    finding = only(reachable([file("a.pth", dead), file("b.pth", dead, "drn_c_26")]))
    assert finding.status == "warning"
    assert finding.found == (
        "Connection refused: nobody else has weights for drn_c_26, drn_d_22 either"
    )
    assert "DRN_MIRRORS" in str(finding.remedy)


def test_a_dead_server_that_others_stand_in_for(serve: Serve, dead: str) -> None:
    address, _ = serve("b.pth")
    first, second = reachable([file("a.pth", dead), file("b.pth", address)])
    assert (first.status, second.status) == ("ok", "ok")
    assert first.found == "Connection refused, but others have the same weights"
    # Other weights of the same network are not the same weights.
    other = replace(file("b.pth", address), kind="retrained")
    first, second = reachable([file("a.pth", dead), other])
    assert (first.status, second.status) == ("warning", "ok")


def test_an_own_mirror_is_asked_for_each_file(
    serve: Serve, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = serve("a.pth")
    monkeypatch.setenv("DRN_MIRRORS", f"{address}/drn/")
    files = [file("a.pth", dead), file("b.pth", dead, "drn_c_26")]
    mirror, server = reachable(files)
    assert mirror == Finding(f"mirror {address}/drn/", "ok", "has 1 of 2 published files")
    assert sorted(asked) == ["HEAD /drn/a.pth", "HEAD /drn/b.pth"]
    assert server.status == "warning"
    assert server.found.endswith("nobody else has weights for drn_c_26 either")


def test_an_own_mirror_that_is_no_use(
    serve: Serve, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, _ = serve("a.pth")
    empty, _ = serve()
    monkeypatch.setenv("DRN_MIRRORS", f"{empty} {dead} no-address")
    findings = reachable([file("a.pth", public)])
    assert [finding.status for finding in findings] == ["warning", "warning", "warning", "ok"]
    assert findings[0].found == "no file is there: HTTP 404"
    assert findings[1].found == "no file is there: Connection refused"
    assert "unknown url type" in findings[2].found
    assert all("DRN_MIRRORS" in str(finding.remedy) for finding in findings[:3])


def test_a_server_that_knows_no_head(serve: Serve) -> None:
    address, asked = serve("a.pth", head=False)
    assert ask([f"{address}/a.pth"], 5) == {f"{address}/a.pth": ""}
    assert asked == ["GET /a.pth"]


def test_a_server_in_trouble(serve: Serve) -> None:
    address, asked = serve(otherwise=503)
    assert ask([f"{address}/a.pth"], 5) == {f"{address}/a.pth": "HTTP 503"}
    assert asked == ["HEAD /a.pth"]


def test_the_silent_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.pth"
        assert ask([url], 0.3)[url] in ("timed out", "no answer within 0.3 seconds")
    # A name server that is silent obeys no timeout.
    over = threading.Event()
    monkeypatch.setattr("drn_cli.doctor.mirrors._problem", lambda *_: str(over.wait(60)))
    assert ask(["http://x/", "http://y/"], 0.1)["http://x/"] == "no answer within 0.1 seconds"
    over.set()
