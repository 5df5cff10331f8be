"""Whether the servers answer from which published weights can be had."""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from drn_cli import __version__
from drn_cli.doctor.finding import Finding
from drn_cli.networks.published import PUBLISHED, WeightFile

TIMEOUT = 5.0  # seconds, for all servers together
NO_HEAD = (405, 501)  # a server that knows no HEAD

Address = tuple[WeightFile, str]


def reachable(files: Sequence[WeightFile] = PUBLISHED, timeout: float = TIMEOUT) -> list[Finding]:
    """Ask the user's own mirrors for every file, and each public server for one.

    That a public server is silent matters only where no other has the same weights.
    """
    from drn_cli.networks.download import addresses

    own = os.environ.get("DRN_MIRRORS", "").split()
    near = len(own) * sum(len(file.download_names) for file in files)
    listed = addresses(files)
    mirrors = {mirror: _below(mirror, listed[:near]) for mirror in own}
    servers: dict[str, list[Address]] = {}
    for file, url in listed[near:]:
        servers.setdefault(urlsplit(url).netloc, []).append((file, url))
    urls = [url for some in mirrors.values() for _, url in some]
    answers = ask([*urls, *(some[0][1] for some in servers.values())], timeout)

    can_be_had = {_set(file) for some in mirrors.values() for file, url in some if not answers[url]}
    for some in servers.values():
        if not answers[some[0][1]]:
            can_be_had |= {_set(file) for file, _ in some}
    return [
        *(_own(mirror, some, answers) for mirror, some in mirrors.items()),
        *(_public(name, some, answers, can_be_had) for name, some in servers.items()),
    ]


def _own(mirror: str, some: Sequence[Address], answers: dict[str, str]) -> Finding:
    name, remedy = f"mirror {mirror}", "look at DRN_MIRRORS: base addresses with spaces between"
    count = sum(1 for _, url in some if not answers[url])
    if count:
        return Finding(name, "ok", f"has {count} of {len(some)} published files")
    return Finding(name, "warning", f"no file is there: {answers[some[0][1]]}", remedy)


def _public(
    name: str,
    some: Sequence[Address],
    answers: dict[str, str],
    can_be_had: set[tuple[str, str]],
) -> Finding:
    problem = answers[some[0][1]]
    name = f"server {name}"
    if not problem:
        return Finding(name, "ok", "answers")
    missing = sorted({file.arch for file, _ in some if _set(file) not in can_be_had})
    if not missing:
        found = f"{problem}, but others have the same weights"
        return Finding(name, "ok", found)
    return Finding(
        name,
        "warning",
        f"{problem}: nobody else has weights for {', '.join(missing)} either",
        "put the files into the cache folder by hand (drn models show ARCH lists them), or name "
        "a mirror in DRN_MIRRORS",
    )


def _set(file: WeightFile) -> tuple[str, str]:
    """Give what files are interchangeable by."""
    return file.arch, file.kind


def _below(mirror: str, listed: Iterable[Address]) -> list[Address]:
    return [(file, url) for file, url in listed if url.startswith(mirror.rstrip("/") + "/")]


def ask(urls: Sequence[str], timeout: float) -> dict[str, str]:
    """Ask for the heads of files, all at once: what went wrong by URL, or "" if it is there."""
    silent = f"no answer within {timeout:g} seconds"
    answers = dict.fromkeys(urls, silent)

    def look(url: str) -> None:
        answers[url] = _problem(url, timeout)

    # Nobody can interrupt a name server that is silent: such threads are left to themselves.
    threads = [threading.Thread(target=look, args=(url,), daemon=True) for url in answers]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(answers)


def _problem(url: str, timeout: float) -> str:
    for method in ("HEAD", "GET"):
        try:
            request = Request(url, method=method, headers={"User-Agent": f"drn/{__version__}"})
            with urlopen(request, timeout=timeout):
                return ""
        except HTTPError as error:
            error.close()
            if method == "GET" or error.code not in NO_HEAD:
                return f"HTTP {error.code}"
        except URLError as error:
            return str(getattr(error.reason, "strerror", None) or error.reason)
        except (OSError, HTTPException, ValueError) as error:
            return str(error) or type(error).__name__
    raise AssertionError
