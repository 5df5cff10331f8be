"""Downloads from local HTTP servers: mirrors, resumption, checksums, archives."""

import hashlib
import io
import logging
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from drn_cli.errors import DrnError
from drn_cli.networks import download
from drn_cli.networks.download import cache_folder, candidate_urls, download_weights
from drn_cli.networks.published import PUBLISHED, WeightFile, published

CONTENT = bytes(range(256)) * 512


def zipped(content: bytes, name: str = "x.pth") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return made.getvalue()


@dataclass
class Mirror:
    """A server that records requests and can misbehave."""

    files: dict[str, bytes]
    ranges: bool = True
    breaks_after: int | None = None
    delay: float = 0
    pause: float = 0  # seconds between two bytes
    length: bool = True  # whether it sends Content-Length
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


def handler(mirror: Mirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            mirror.requests.append((self.path, asked))
            time.sleep(mirror.delay)
            content = mirror.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            start = int(re.findall(r"bytes=(\d+)-", asked)[0]) if asked and mirror.ranges else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                size = len(content)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if mirror.length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            with suppress(ConnectionError):  # the client may have given up
                if not mirror.pause:
                    self.wfile.write(content[start:][: mirror.breaks_after])
                    return
                for byte in content[start:]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(mirror.pause)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def serve() -> Iterator[object]:
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(mirror: Mirror) -> Mirror:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(mirror))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        mirror.address = f"http://127.0.0.1:{server.server_port}"
        return mirror

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRN_CACHE", str(tmp_path))
    monkeypatch.delenv("DRN_MIRRORS", raising=False)
    return tmp_path / "weights"


def weight_file(*mirrors: Mirror, name: str = "x.pth", archived: bool = False) -> WeightFile:
    served = f"{name}.zip" if archived else name
    algorithm = "sha1" if archived else "sha256"
    return WeightFile(
        arch="drn_d_22",
        kind="original",
        name=name,
        urls=tuple(f"{mirror.address}/{served}" for mirror in mirrors),
        archived=archived,
        algorithm=algorithm,
        checksum=hashlib.new(algorithm, CONTENT).hexdigest()[:8],
        source="test",
        licence="none",
    )


def files_in(folder: Path) -> set[str]:
    """Return the files in the cache folder, without locks and recorded digests."""
    return {path.name for path in folder.iterdir() if path.suffix not in ("", ".sha256")}


def test_downloads_once(serve, folder: Path) -> None:
    mirror = serve(Mirror({"x.pth": CONTENT}))
    for _ in range(2):
        path = download_weights([weight_file(mirror)])
        assert path == folder / "x.pth"
        assert path.read_bytes() == CONTENT
    assert mirror.requests == [("/x.pth", None)]
    assert files_in(folder) == {"x.pth"}


def test_unpacks_archives(serve, folder: Path) -> None:
    mirror = serve(Mirror({"x.pth.zip": zipped(CONTENT, "other.pth")}))
    path = download_weights([weight_file(mirror, archived=True)])
    assert path.read_bytes() == CONTENT
    assert files_in(folder) == {"x.pth"}


@pytest.mark.parametrize("ranges", [True, False])
def test_resumes_a_partial_download(serve, folder: Path, ranges: bool) -> None:
    mirror = serve(Mirror({"x.pth": CONTENT}, ranges=ranges))
    folder.mkdir()
    (folder / "x.pth.part").write_bytes(CONTENT[:1000])
    assert download_weights([weight_file(mirror)]).read_bytes() == CONTENT
    assert mirror.requests == [("/x.pth", "bytes=1000-")]
    assert files_in(folder) == {"x.pth"}


def test_resumes_after_a_broken_connection(serve, folder: Path) -> None:
    mirror = serve(Mirror({"x.pth": CONTENT}, breaks_after=5000))
    with pytest.raises(DrnError, match="could not be downloaded"):
        download_weights([weight_file(mirror)])
    assert (folder / "x.pth.part").read_bytes() == CONTENT[:5000]
    mirror.breaks_after = None
    assert download_weights([weight_file(mirror)]).read_bytes() == CONTENT
    assert mirror.requests == [("/x.pth", None), ("/x.pth", "bytes=5000-")]


def test_an_interrupt_keeps_the_part(serve, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = serve(Mirror({"x.pth": CONTENT}))

    class Interrupted(download.tqdm):
        def update(self, n: float | None = 1) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(download, "CHUNK", 4096)
    monkeypatch.setattr(download, "tqdm", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_weights([weight_file(mirror)])
    received = (folder / "x.pth.part").read_bytes()
    assert received
    assert CONTENT.startswith(received)
    assert files_in(folder) == {"x.pth.part"}


def test_accepts_a_complete_part(serve, folder: Path) -> None:
    """As after an interrupt at the end of the download; the server answers 416."""
    mirror = serve(Mirror({"x.pth": CONTENT}))
    folder.mkdir()
    (folder / "x.pth.part").write_bytes(CONTENT)
    assert download_weights([weight_file(mirror)]).read_bytes() == CONTENT
    assert len(mirror.requests) == 1


@pytest.mark.parametrize("length", [1000, len(CONTENT), len(CONTENT) + 10])
def test_restarts_after_a_wrong_part(serve, folder: Path, length: int) -> None:
    mirror = serve(Mirror({"x.pth": CONTENT}))
    folder.mkdir()
    (folder / "x.pth.part").write_bytes(b"?" * length)
    assert download_weights([weight_file(mirror)]).read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == [f"bytes={length}-", None]
    assert files_in(folder) == {"x.pth"}


@pytest.mark.parametrize("content", [b"precious", CONTENT])
def test_does_not_write_through_a_link(serve, folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "precious").write_bytes(content)
    (folder / "x.pth.part").symlink_to("precious")
    with pytest.raises(DrnError, match=r"x\.pth\.part: is a symbolic link"):
        download_weights([weight_file(serve(Mirror({"x.pth": CONTENT}, ranges=False)))])
    assert (folder / "precious").read_bytes() == content


def test_tries_the_next_mirror(serve, folder: Path) -> None:
    missing = serve(Mirror({}))
    wrong = serve(Mirror({"x.pth": b"<html>log in</html>"}))
    right = serve(Mirror({"x.pth": CONTENT}))
    unused = serve(Mirror({"x.pth": CONTENT}))
    path = download_weights([weight_file(missing, wrong, right, unused)])
    assert path.read_bytes() == CONTENT
    # The wrong file was not kept: the right mirror gets no Range request.
    assert right.requests == [("/x.pth", None)]
    assert not unused.requests
    assert files_in(folder) == {"x.pth"}


@pytest.mark.parametrize("served", [b"not a zip", zipped(b"other"), zipped(CONTENT, "x.txt")])
def test_tries_the_next_file(serve, folder: Path, served: bytes) -> None:
    first = serve(Mirror({"y.pth.zip": served}))
    second = serve(Mirror({"x.pth": CONTENT}))
    files = [weight_file(first, name="y.pth", archived=True), weight_file(second)]
    assert download_weights(files) == folder / "x.pth"
    assert len(first.requests) == 1
    assert files_in(folder) == {"x.pth"}


def test_lists_all_failures_and_the_remedy(serve, folder: Path) -> None:
    missing = serve(Mirror({}))
    wrong = serve(Mirror({"x.pth": b"wrong"}))
    closed = Mirror({}, address="http://127.0.0.1:9")
    nonsense = Mirror({}, address="nonsense")
    files = [
        weight_file(missing, wrong, closed, nonsense),
        weight_file(missing, name="y.pth", archived=True),
    ]
    with pytest.raises(DrnError) as caught:
        download_weights(files)
    message, hint = caught.value.message, caught.value.hint
    assert "\n" not in message
    assert message.startswith("the weights of drn_d_22 could not be downloaded: ")
    assert f"{missing.address}/x.pth: HTTP 404" in message
    assert f"{wrong.address}/x.pth: its SHA256 does not begin with" in message
    assert "127.0.0.1:9/x.pth: [Errno 111]" in message
    assert "nonsense/x.pth: unknown url type" in message
    assert f"{missing.address}/y.pth.zip: HTTP 404" in message
    assert hint == (
        f"copy x.pth or y.pth or y.pth.zip to {folder}, or set DRN_MIRRORS to the URL of a mirror"
    )
    assert files_in(folder) == set()


def test_tries_mirrors_of_the_user_first(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    near = serve(Mirror({"drn/y.pth.zip": zipped(CONTENT)}))
    far = serve(Mirror({"x.pth": CONTENT}))
    monkeypatch.setenv("DRN_MIRRORS", f"{near.address}/empty  {near.address}/drn/")
    files = [weight_file(far), weight_file(far, name="y.pth", archived=True)]
    assert download_weights(files).name == "y.pth"
    assert [path for path, _ in near.requests] == [
        "/empty/x.pth",
        "/empty/y.pth.zip",
        "/drn/x.pth",
        "/drn/y.pth.zip",
    ]
    assert not far.requests


def test_warns_about_and_replaces_a_wrong_cached_file(
    serve, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = serve(Mirror({}))
    folder.mkdir()
    (folder / "x.pth").write_bytes(b"wrong")
    with caplog.at_level(logging.WARNING), pytest.raises(DrnError, match="HTTP 404"):
        download_weights([weight_file(mirror)])
    assert f"{folder / 'x.pth'}: its SHA256 does not begin with" in caplog.text
    assert (folder / "x.pth").read_bytes() == b"wrong"  # kept until the download succeeds
    mirror.files["x.pth"] = CONTENT
    assert download_weights([weight_file(mirror)]).read_bytes() == CONTENT


def test_uses_archives_placed_in_the_folder(folder: Path) -> None:
    nowhere = Mirror({}, address="http://127.0.0.1:9")
    files = [weight_file(nowhere), weight_file(nowhere, name="y.pth", archived=True)]
    folder.mkdir()
    (folder / "y.pth.zip").write_bytes(zipped(CONTENT))
    assert download_weights(files) == folder / "y.pth"
    (folder / "x.pth").write_bytes(CONTENT)
    assert download_weights(files) == folder / "x.pth"


def test_concurrent_downloads_of_the_same_file_wait(serve, folder: Path) -> None:
    mirror = serve(Mirror({"x.pth": CONTENT}, delay=0.2))
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: download_weights([weight_file(mirror)]), range(4)))
    assert set(paths) == {folder / "x.pth"}
    assert len(mirror.requests) == 1


def test_gives_up_a_silent_server(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    silent = serve(Mirror({"x.pth": CONTENT}, delay=0.5))
    with pytest.raises(DrnError, match="timed out"):
        download_weights([weight_file(silent)])


def test_a_read_only_cache_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DrnError, match=r"cannot be written: .*set DRN_CACHE"):
        download_weights([weight_file()])


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("DRN_CACHE", "~/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/home/someone/mine")
    monkeypatch.delenv("DRN_CACHE")
    assert cache_folder() == Path("/var/cache/drn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/someone/.cache/drn")


def test_addresses_of_published_files_in_order() -> None:
    original, converted = published("drn_d_22")
    assert [url for _, url in candidate_urls([original, converted])] == [
        "https://dl.yf.io/drn/drn_d_22-4bd2f8ea.pth",
        "http://dl.yf.io/drn/drn_d_22-4bd2f8ea.pth",
        "https://github.com/osmr/imgclsmob/releases/download/v0.0.116/drnd22-0823-5c2c6a0c.pth.zip",
    ]
    (retrained,) = published("drn_d_22", "imagenet-retrained")
    assert (retrained.name, retrained.top5) == ("drnd22-0758-02cb44bd.pth", 7.58)


def test_published_files_are_complete() -> None:
    names = [file.name for file in PUBLISHED]
    assert len(set(names)) == len(names)
    for file in PUBLISHED:
        assert re.fullmatch("[0-9a-f]{8}", file.checksum)
        assert file.name.endswith(f"-{file.checksum}.pth")
        assert all(url.endswith(f"/{file.download_names[0]}") for url in file.urls)
        assert file.algorithm == ("sha1" if file.source == "pytorchcv" else "sha256")
        if file.digest is not None:
            algorithm, _, digits = file.digest.partition(":")
            assert len(digits) == {"sha256": 64, "sha384": 96}[algorithm]
            assert digits.startswith(file.checksum)
        assert file.urls[0].startswith("https://")


def test_the_first_download_records_its_digest(
    serve, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = weight_file(serve(Mirror({"x.pth.zip": zipped(CONTENT)})), archived=True)
    path = download_weights([file])
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (folder / "x.pth.sha256").read_text() == f"{digest}  x.pth\n"
    assert "only the first 8 digits of its SHA1 were compared" in caplog.text
    caplog.clear()
    assert download_weights([file]) == path
    assert not caplog.records
    # A file with a forged short checksum has another digest than the recorded one.
    (folder / "x.pth.sha256").write_text("0" * 64)
    with pytest.raises(DrnError, match=r"is not the one in .*x\.pth\.sha256 \(remove"):
        download_weights([file])
    assert (
        download_weights([replace(file, digest=f"sha256:{digest}")]) == path
    )  # a published digest takes precedence
    assert (folder / "x.pth.sha256").read_text() == f"{digest}  x.pth\n"


@pytest.mark.parametrize(
    ("changes", "served", "message"),
    [
        ({"digest": f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"}, CONTENT, None),
        ({"digest": f"sha384:{hashlib.sha384(CONTENT).hexdigest()}"}, CONTENT, None),
        ({"size": len(CONTENT)}, CONTENT, None),
        ({"digest": f"sha256:{'0' * 64}"}, CONTENT, "its SHA256 does not begin with 0000"),
        ({"digest": f"sha384:{'0' * 96}"}, CONTENT, "its SHA384 does not begin with 0000"),
        ({"size": len(CONTENT) - 1}, CONTENT, "131,072 bytes, more than 131,071"),
        ({"size": len(CONTENT) + 1}, CONTENT, "it has 131,072 bytes, not 131,073"),
    ],
    ids=["sha256", "sha384", "size", "other sha256", "other sha384", "larger", "smaller"],
)
def test_compares_full_digests_and_sizes(
    serve,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    served: bytes,
    message: str | None,
) -> None:
    file = replace(weight_file(serve(Mirror({"x.pth": served}))), **changes)
    if message is None:
        assert download_weights([file]).read_bytes() == CONTENT
        assert bool(caplog.records) == ("digest" not in changes)
        return
    with pytest.raises(DrnError, match=message):
        download_weights([file])
    assert files_in(folder) == set()


def test_gives_up_a_file_without_end(serve, folder: Path) -> None:
    mirror = serve(Mirror({"x.pth": CONTENT * 9}, length=False))
    with pytest.raises(DrnError, match="more than 131,072 bytes"):
        download_weights([replace(weight_file(mirror), size=len(CONTENT))])
    assert files_in(folder) == set()


def test_gives_up_a_slow_server(serve, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WINDOW", 0.2)
    slow, right = serve(Mirror({"x.pth": CONTENT}, pause=0.02)), serve(Mirror({"x.pth": CONTENT}))
    assert download_weights([weight_file(slow, right)]).read_bytes() == CONTENT
    assert right.requests[0][1].startswith("bytes=")
    assert files_in(folder) == {"x.pth"}


def test_removes_parts_that_are_not_needed(serve, folder: Path) -> None:
    broken = serve(Mirror({"y.pth.zip": zipped(CONTENT)}, breaks_after=100))
    right = serve(Mirror({"x.pth": CONTENT}))
    files = [weight_file(broken, name="y.pth", archived=True), weight_file(right)]
    assert download_weights(files) == folder / "x.pth"
    assert files_in(folder) == {"x.pth"}
