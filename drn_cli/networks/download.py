"""Published weights from a mirror into the cache folder, checked and resumed."""

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

TIMEOUT = 20.0  # seconds without a byte, after which a mirror counts as dead
CONNECTING = 60.0  # seconds until the headers of the answer have to be there
SLOWEST = 1024  # bytes a second, on average over each WINDOW
WINDOW = 30.0  # seconds
CHUNK = 1 << 20
LARGEST = 1 << 30  # bytes of a file whose size is not known; the largest has some 220 million


class _WrongContentError(Exception):
    """What came is not the file that was asked for."""


def cache_folder() -> Path:
    """Give the folder for what can be had again: `$DRN_CACHE`, or `drn` in the user's cache."""
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
    return cache_folder() / "weights"


def verify_checksum(path: Path, file: WeightFile) -> bool:
    """Return whether a file on disk is the published one: its checksum, size and digest.

    A SHA-256 that was recorded when the file was verified for the first time must fit as well.
    """
    return _why_wrong(path, file, path) is None


def _why_wrong(path: Path, file: WeightFile, place: Path) -> str | None:
    """Return what about a file is not as published, or as recorded beside its place."""
    recorded = recorded_digest(place) if file.digest is None else None
    if file.size is not None and path.stat().st_size != file.size:
        return f"it has {path.stat().st_size:,} bytes, not {file.size:,}"
    # A recorded digest is of a file that had the short checksum.
    fast = recorded is not None and file.algorithm != "sha256"
    wanted = [] if fast else [(str(file.algorithm), file.checksum)]
    if file.digest is not None:
        algorithm, _, digits = file.digest.partition(":")
        wanted.append((algorithm, digits))
    if recorded is not None:
        wanted.append(("sha256", recorded))
    found: dict[str, str] = {}
    for algorithm in {algorithm for algorithm, _ in wanted}:
        with path.open("rb") as opened:
            found[algorithm] = hashlib.file_digest(opened, algorithm).hexdigest()
    for algorithm, digits in wanted:
        if found[algorithm].startswith(digits):
            continue
        if digits == recorded:
            return (
                f"its SHA-256 is not the one that {digest_file(place)} records (remove that file "
                "to compare with the published digits alone)"
            )
        return f"its {algorithm.upper()} does not begin with {digits}"
    return None


def _record(path: Path, file: WeightFile) -> None:
    """Record the SHA-256 of a file that was found to be the published one, for later reads."""
    recorded = recorded_digest(path)
    if recorded is not None and file.digest in (None, f"sha256:{recorded}"):
        return
    then = f"its SHA-256 is recorded in {digest_file(path).name} and compared from now on"
    try:
        write_text(digest_file(path), f"{sha256(path)}  {path.name}\n")
    except DrnError as error:  # a cache folder that is only read
        then = f"its SHA-256 is not recorded: {error.message}"
    if file.digest is None:
        size = "" if file.size is None else " and its size"
        logger.warning(
            "%s: of its %s only the first %s digits%s could be compared, which can be forged (%s)",
            *(path, file.algorithm.upper(), len(file.checksum), size, then),
        )


def download_weights(files: Sequence[WeightFile], folder: Path | None = None) -> Path:
    """Give the first of some equivalent files that can be had, downloading it if need be.

    In order: sound files in the cache; the base addresses in `DRN_MIRRORS` (separated by
    spaces); each file's own addresses. An interrupted download leaves `NAME.part` and is resumed
    the next time. Processes that want the same file wait for one another; a server that is slower
    than 1 KiB a second is given up. The SHA-256 of a file is recorded in `NAME.sha256` when it is
    verified first, and compared from then on.

    Args:
        files: Files of one architecture, in order of preference.
        folder: The cache folder for weights, unless it is to be another.

    Raises:
        DrnError: None can be had; the error says what was tried and what to put where.
    """
    folder = folder or weights_folder()
    for file in files:
        path = folder / file.name
        if path.is_file() and verify_checksum(path, file):
            _record(path, file)
            return path
    with _alone(folder):
        return _from_folder(files, folder) or _from_mirrors(files, folder)


def candidate_urls(files: Sequence[WeightFile]) -> list[tuple[WeightFile, str]]:
    """List what to try, in order: the user's own mirrors are near, so they go before all else."""
    mirrors = os.environ.get("DRN_MIRRORS", "").split()
    near = [
        (file, f"{mirror.rstrip('/')}/{name}")
        for mirror in mirrors
        for file in files
        for name in file.download_names
    ]
    return near + [(file, url) for file in files for url in file.urls]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time work in the folder: all ranks of a run want the same file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_lock(folder / ".lock")
    except OSError as error:
        raise DrnError(
            f"{folder}: cannot be written: {error.strerror or error}", "set DRN_CACHE to a folder"
        ) from error
    with lock:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _from_folder(files: Sequence[WeightFile], folder: Path) -> Path | None:
    """Look again, now that no process writes, also for archives that were put here by hand."""
    for file in files:
        path = folder / file.name
        if path.is_file():
            wrong = _why_wrong(path, file, path)
            if wrong is None:
                _record(path, file)
                return path
            logger.warning(
                "%s: %s: it is not used, and replaced if a mirror has the right one", path, wrong
            )
        for name in file.download_names:
            archive = folder / name
            if file.archived and archive.is_file():
                try:
                    return _accept(file, archive, folder)
                except _WrongContentError as error:
                    logger.warning("%s: %s: it is not used", archive, error)
    return None


def _from_mirrors(files: Sequence[WeightFile], folder: Path) -> Path:
    failures = []
    for file, url in candidate_urls(files):
        try:
            path = _download_from(file, url, folder)
            _remove_parts(files, folder)
            return path
        except (OSError, HTTPException, ValueError, _WrongContentError) as error:
            failures.append(f"{url}: {_reason(error)}")
            logger.info("%s", failures[-1])
    names = [name for file in files for name in dict.fromkeys((file.name, *file.download_names))]
    raise DrnError(
        f"the weights of {files[0].arch} could not be downloaded: {'; '.join(failures)}",
        f"put {' or '.join(names)} into {folder}, or name a mirror in DRN_MIRRORS",
    )


def _remove_parts(files: Sequence[WeightFile], folder: Path) -> None:
    """Remove what was received of files that will not be continued."""
    for file in files:
        for name in file.download_names:
            with suppress(OSError):
                (folder / f"{name}.part").unlink()


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
        # The beginning may be from another mirror and be what is wrong.
        part.unlink()
        _receive(url, part, limit)
        return _accept(file, part, folder)
    except _WrongContentError:
        part.unlink(missing_ok=True)
        raise


def _receive(url: str, part: Path, limit: int) -> bool:
    """Download to `part`, from its end on if the server can; return whether it did so."""
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
        if have and error.code == 416:  # nothing lies beyond what we have: the checksum decides
            return True
        raise
    with response:
        sent = str(response.headers.get("Content-Range", ""))
        resumed = sent.startswith(f"bytes {have}-")
        if response.status == 206 and not resumed:
            raise OSError("the server sent another range than asked for")
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
                disable=None,  # no bar where stderr is no terminal
            ) as bar,
        ):
            if not resumed:
                out.truncate(0)
            size = mark = have if resumed else 0
            since = time.monotonic()
            # Not read, which would wait for the whole chunk, however slowly it comes.
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
    """Open an address; headers that come one byte at a time do not keep it waiting for ever."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(urlopen(request, timeout=TIMEOUT))
        except Exception as error:  # raised below, where someone waits for it
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECTING)
    if not answer:
        raise TimeoutError(f"no answer within {CONNECTING:.0f} s")
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def _accept(file: WeightFile, arrived: Path, folder: Path) -> Path:
    """Check what arrived and put it in its place; raises _WrongContentError and leaves it."""
    target = folder / file.name
    with atomic(target) as temporary:
        if file.archived:
            _unpack(arrived, temporary)
        else:
            shutil.copyfile(arrived, temporary)
        wrong = _why_wrong(temporary, file, target)
        if wrong is not None:
            raise _WrongContentError(wrong)
    _record(target, file)
    return target


def _unpack(arrived: Path, target: Path) -> None:
    try:
        with (
            zipfile.ZipFile(arrived) as archive,
            target.open("wb") as out,
        ):
            check_sizes(archive, arrived)
            with archive.open(archived_weights(archive, arrived)) as packed:
                shutil.copyfileobj(packed, out)
    except (*ZIP_ERRORS, DrnError) as error:
        raise _WrongContentError(f"not the archive that was expected: {error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
