"""Download of published weights into the cache folder, with mirrors, checksums and resumption."""

import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from drn_cli.errors import DrnError
from drn_cli.files import atomic, open_lock, open_part, sha256, user_path, write_text
from drn_cli.integrity import ZIP_ERRORS, check_sizes, digest_file, recorded_digest
from drn_cli.networks.checkpoints import archived_weights
from drn_cli.networks.published import WeightFile
from drn_cli.version import __version__

logger = logging.getLogger(__name__)

TIMEOUT = 20.0  # seconds without data after which a mirror is given up
CONNECTING = 60.0  # seconds until the headers of the response
SLOWEST = 1024  # bytes per second, on average over each WINDOW
WINDOW = 30.0  # seconds
CHUNK = 1 << 20  # bytes
LARGEST = 1 << 30  # bytes, limit of files of unknown size; the largest has about 220 million


class _WrongContentError(Exception):
    """The file is not the published one."""


def cache_folder() -> Path:
    """Return the cache folder: `$DRN_CACHE`, or `drn` in the user's cache folder."""
    if folder := os.environ.get("DRN_CACHE"):
        return user_path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "drn"
    try:
        return user_path("~/.cache/drn")
    except DrnError as error:
        raise DrnError(
            error.message, "set DRN_CACHE to a folder for weights, or set HOME"
        ) from error


def weights_folder() -> Path:
    """Return the folder of cached weights."""
    return cache_folder() / "weights"


def verify_checksum(path: Path, file: WeightFile) -> bool:
    """Return whether a file is the published one: by its size, checksum and digest.

    The SHA-256 that was recorded when the file was first verified must match as well.
    """
    return _mismatch(path, file, path) is None


def _mismatch(path: Path, file: WeightFile, cached: Path) -> str | None:
    """Return how a file differs from the published one, or from the digest recorded in the cache.

    Args:
        path: The file.
        file: The published file.
        cached: Path of the file in the cache, beside which its SHA-256 is recorded.
    """
    recorded = recorded_digest(cached) if file.digest is None else None
    if file.size is not None and path.stat().st_size != file.size:
        return f"it has {path.stat().st_size:,} bytes, not {file.size:,}"
    # A recorded SHA-256 implies the checksum; comparing both would read the file a second time.
    implied = recorded is not None and file.algorithm != "sha256"
    expected = [] if implied else [(str(file.algorithm), file.checksum)]
    if file.digest is not None:
        algorithm, _, digits = file.digest.partition(":")
        expected.append((algorithm, digits))
    if recorded is not None:
        expected.append(("sha256", recorded))
    found: dict[str, str] = {}
    for algorithm in {algorithm for algorithm, _ in expected}:
        with path.open("rb") as opened:
            found[algorithm] = hashlib.file_digest(opened, algorithm).hexdigest()
    for algorithm, digits in expected:
        if found[algorithm].startswith(digits):
            continue
        if digits == recorded:
            return (
                f"its SHA-256 is not the one in {digest_file(cached)} (remove that file to compare "
                "with the published digits only)"
            )
        return f"its {algorithm.upper()} does not begin with {digits}"
    return None


def _record(path: Path, file: WeightFile) -> None:
    """Record the SHA-256 of a verified file for later reads."""
    recorded = recorded_digest(path)
    if recorded is not None and file.digest in (None, f"sha256:{recorded}"):
        return
    then = f"its SHA-256 is recorded in {digest_file(path).name} and compared from now on"
    try:
        write_text(digest_file(path), f"{sha256(path)}  {path.name}\n")
    except DrnError as error:  # a read-only cache folder
        then = f"its SHA-256 could not be recorded: {error.message}"
    if file.digest is None:
        size = "" if file.size is None else " and its size"
        logger.warning(
            "%s: only the first %s digits of its %s%s were compared, which can be forged (%s)",
            *(path, len(file.checksum), file.algorithm.upper(), size, then),
        )


def download_weights(files: Sequence[WeightFile], folder: Path | None = None) -> Path:
    """Return the first available of several equivalent files, downloading it if necessary.

    Tried are, in this order, intact files in the cache, the base URLs in `DRN_MIRRORS` (separated
    by spaces), and the URLs of each file. An interrupted download leaves `NAME.part` and is resumed
    later. Processes that need the same file wait for each other; a server that sends less than
    1 KiB per second is given up. The SHA-256 of a file is recorded in `NAME.sha256` when it is
    first verified, and compared from then on.

    Args:
        files: Files of one architecture, in order of preference.
        folder: Folder for the files; by default the cache.

    Raises:
        DrnError: No file could be downloaded; the message lists the URLs and the folder.
    """
    folder = folder or weights_folder()
    for file in files:
        path = folder / file.name
        if path.is_file() and verify_checksum(path, file):
            _record(path, file)
            return path
    with _locked(folder):
        return _from_folder(files, folder) or _from_mirrors(files, folder)


def candidate_urls(files: Sequence[WeightFile]) -> list[tuple[WeightFile, str]]:
    """Return the URLs to try, in order: first the mirrors of the user."""
    mirrors = os.environ.get("DRN_MIRRORS", "").split()
    mirrored = [
        (file, f"{mirror.rstrip('/')}/{name}")
        for mirror in mirrors
        for file in files
        for name in file.download_names
    ]
    return mirrored + [(file, url) for file in files for url in file.urls]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder for this process: all ranks of a job need the same file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_lock(folder / ".lock")
    except OSError as error:
        raise DrnError(
            f"{folder}: cannot be written: {error.strerror or error}",
            "set DRN_CACHE to another folder",
        ) from error
    with lock:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _from_folder(files: Sequence[WeightFile], folder: Path) -> Path | None:
    """Return the first intact file, also from an archive that the user has placed in the folder."""
    for file in files:
        path = folder / file.name
        if path.is_file():
            mismatch = _mismatch(path, file, path)
            if mismatch is None:
                _record(path, file)
                return path
            logger.warning(
                "%s: %s: not used (it is replaced if the download succeeds)", path, mismatch
            )
        for name in file.download_names:
            archive = folder / name
            if file.archived and archive.is_file():
                try:
                    return _accept(file, archive, folder)
                except _WrongContentError as error:
                    logger.warning("%s: %s: not used", archive, error)
    return None


def _from_mirrors(files: Sequence[WeightFile], folder: Path) -> Path:
    failures = []
    for file, url in candidate_urls(files):
        try:
            path = _download_from(file, url, folder)
            for name in [name for file in files for name in file.download_names]:
                with suppress(OSError):
                    (folder / f"{name}.part").unlink()
            return path
        except (OSError, HTTPException, ValueError, _WrongContentError) as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, HTTPError):
                reason = f"HTTP {error.code}"
            elif isinstance(error, URLError):
                reason = str(error.reason)
            failures.append(f"{url}: {reason}")
            logger.info("%s", failures[-1])
    names = [name for file in files for name in dict.fromkeys((file.name, *file.download_names))]
    raise DrnError(
        f"the weights of {files[0].arch} could not be downloaded: {'; '.join(failures)}",
        f"copy {' or '.join(names)} to {folder}, or set DRN_MIRRORS to the URL of a mirror",
    )


def _download_from(file: WeightFile, url: str, folder: Path) -> Path:
    part = folder / f"{url.rpartition('/')[2]}.part"
    logger.info("downloading %s", url)
    limit = LARGEST if file.size is None or file.archived else file.size
    try:
        resumed = _receive(url, part, limit)
        try:
            return _accept(file, part, folder)
        except _WrongContentError:
            if not resumed:
                raise
        # The first part may come from another mirror and be the wrong one.
        part.unlink()
        _receive(url, part, limit)
        return _accept(file, part, folder)
    except _WrongContentError:
        part.unlink(missing_ok=True)
        raise


def _receive(url: str, part: Path, limit: int) -> bool:
    """Download to `part`, resuming if the server supports it; return whether it was resumed."""
    have = 0
    if os.path.lexists(part):
        with open_part(part) as begun:
            have = begun.tell()
    request = Request(url, headers={"User-Agent": f"drn/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = _opened(request)
    except HTTPError as error:
        error.close()
        if have and error.code == 416:  # the file has no more bytes: the checksum decides
            return True
        raise
    with response:
        sent = str(response.headers.get("Content-Range", ""))
        resumed = sent.startswith(f"bytes {have}-")
        if response.status == 206 and not resumed:
            raise OSError("the server sent another range than requested")
        length = response.headers.get("Content-Length")
        expected = None if length is None else int(length) + (have if resumed else 0)
        if expected is not None and expected > limit:
            raise _WrongContentError(f"{expected:,} bytes, more than {limit:,}")
        with (
            open_part(part) as out,
            tqdm(
                desc=part.stem,
                total=expected,
                initial=have if resumed else 0,
                unit="B",
                unit_scale=True,
                disable=None,  # no bar unless stderr is a terminal
            ) as bar,
        ):
            if not resumed:
                out.truncate(0)
            size = mark = have if resumed else 0
            since = time.monotonic()
            # Not read(), which waits for the whole chunk, however slowly it arrives.
            while chunk := response.read1(CHUNK):
                size += len(chunk)
                if size > limit:
                    raise _WrongContentError(f"more than {limit:,} bytes")
                out.write(chunk)
                bar.update(len(chunk))
                if (seconds := time.monotonic() - since) >= WINDOW:
                    if size - mark < SLOWEST * seconds:
                        raise OSError(f"{size - mark} bytes in {seconds:.0f} s: too slow")
                    mark, since = size, time.monotonic()
    size = part.stat().st_size
    if expected is not None and size != expected:
        raise OSError(f"the connection ended after {size} of {expected} bytes")
    return resumed


def _opened(request: Request) -> Any:
    """Open a URL, with a limit for all headers together; urllib's limit is for each read."""
    responses: list[Any] = []

    def request_headers() -> None:
        try:
            responses.append(urlopen(request, timeout=TIMEOUT))
        except Exception as error:  # raised below, in the thread of the caller
            responses.append(error)

    thread = threading.Thread(target=request_headers, daemon=True)
    thread.start()
    thread.join(CONNECTING)
    if not responses:
        raise TimeoutError(f"no response within {CONNECTING:.0f} s")
    if isinstance(responses[0], Exception):
        raise responses[0]
    return responses[0]


def _accept(file: WeightFile, download: Path, folder: Path) -> Path:
    """Verify a downloaded file or archive, and move the weights to the cache.

    Raises:
        _WrongContentError: It is not the published file.
    """
    target = folder / file.name
    with atomic(target) as temporary:
        if file.archived:
            _unpack(download, temporary)
        else:
            shutil.copyfile(download, temporary)
        mismatch = _mismatch(temporary, file, target)
        if mismatch is not None:
            raise _WrongContentError(mismatch)
    _record(target, file)
    return target


def _unpack(download: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(download) as archive, target.open("wb") as out:
            check_sizes(archive, download)
            with archive.open(archived_weights(archive, download)) as packed:
                shutil.copyfileobj(packed, out)
    except (*ZIP_ERRORS, DrnError) as error:
        raise _WrongContentError(f"not the expected archive: {error}") from error
