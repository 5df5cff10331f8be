"""Published weights from a mirror into the cache folder, checked and resumed."""

import fcntl
import hashlib
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from drn_cli import __version__
from drn_cli.errors import DrnError
from drn_cli.files import atomic, open_lock
from drn_cli.networks.checkpoints import archived_weights
from drn_cli.networks.published import WeightFile

logger = logging.getLogger(__name__)

TIMEOUT = 20.0  # seconds without a byte, after which a mirror counts as dead
CHUNK = 1 << 20


class _WrongContentError(Exception):
    """What came is not the file that was asked for."""


def cache_folder() -> Path:
    """Give the folder for what can be had again: `$DRN_CACHE`, or `drn` in the user's cache."""
    if folder := os.environ.get("DRN_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "drn"


def weights_folder() -> Path:
    return cache_folder() / "weights"


def matches(path: Path, file: WeightFile) -> bool:
    """Tell whether a file on disk has the published checksum."""
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, file.algorithm).hexdigest()
    return digest.startswith(file.checksum)


def fetch(files: Sequence[WeightFile], folder: Path | None = None) -> Path:
    """Give the first of some equivalent files that can be had, downloading it if need be.

    In order: sound files in the cache; the base addresses in `DRN_MIRRORS` (separated by
    spaces); each file's own addresses. An interrupted download leaves `NAME.part` and goes on
    from there the next time. Processes that want the same file wait for one another.

    Args:
        files: Files of one architecture, in order of preference.
        folder: The cache folder for weights, unless it is to be another.

    Raises:
        DrnError: None can be had; the error says what was tried and what to put where.
    """
    folder = folder or weights_folder()
    for file in files:
        path = folder / file.name
        if path.is_file() and matches(path, file):
            return path
    with _alone(folder):
        return _from_folder(files, folder) or _from_mirrors(files, folder)


def addresses(files: Sequence[WeightFile]) -> list[tuple[WeightFile, str]]:
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
    """Look again, now that nobody writes, and also for archives that someone put here by hand."""
    for file in files:
        path = folder / file.name
        if path.is_file():
            if matches(path, file):
                return path
            logger.warning(
                "%s: its %s does not begin with %s: it is not used, and replaced if a mirror "
                "has the right one",
                path,
                file.algorithm.upper(),
                file.checksum,
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
    for file, url in addresses(files):
        try:
            return _download(file, url, folder)
        except (OSError, HTTPException, ValueError, _WrongContentError) as error:
            failures.append(f"{url}: {_reason(error)}")
            logger.info("%s", failures[-1])
    names = [name for file in files for name in dict.fromkeys((file.name, *file.download_names))]
    raise DrnError(
        f"the weights of {files[0].arch} could not be downloaded: {'; '.join(failures)}",
        f"put {' or '.join(names)} into {folder}, or name a mirror in DRN_MIRRORS",
    )


def _download(file: WeightFile, url: str, folder: Path) -> Path:
    part = folder / f"{url.rpartition('/')[2]}.part"
    logger.info("downloading %s", url)
    resumed = _receive(url, part)
    try:
        path = _accept(file, part, folder)
    except _WrongContentError:
        part.unlink()
        if not resumed:
            raise
        # The beginning may be from another mirror and be what is wrong.
        _receive(url, part)
        try:
            path = _accept(file, part, folder)
        except _WrongContentError:
            part.unlink()
            raise
    part.unlink(missing_ok=True)
    return path


def _receive(url: str, part: Path) -> bool:
    """Download to `part`, on from its end if the server can; tell whether it did so."""
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": f"drn/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urlopen(request, timeout=TIMEOUT)
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
        with (
            part.open("ab" if resumed else "wb") as out,
            tqdm(
                desc=part.stem,
                total=expected,
                initial=have if resumed else 0,
                unit="B",
                unit_scale=True,
                disable=None,  # no bar where stderr is no terminal
            ) as bar,
        ):
            while chunk := response.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if expected is not None and size != expected:
        raise OSError(f"the connection ended after {size} of {expected} bytes")
    return resumed


def _accept(file: WeightFile, arrived: Path, folder: Path) -> Path:
    """Check what arrived and put it in its place; raises _WrongContentError and leaves it."""
    target = folder / file.name
    with atomic(target) as temporary:
        if file.archived:
            _unpack(arrived, temporary)
        else:
            shutil.copyfile(arrived, temporary)
        if not matches(temporary, file):
            raise _WrongContentError(
                f"its {file.algorithm.upper()} does not begin with {file.checksum}"
            )
    return target


def _unpack(arrived: Path, target: Path) -> None:
    try:
        with (
            zipfile.ZipFile(arrived) as archive,
            archive.open(archived_weights(archive, arrived)) as packed,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(packed, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, DrnError) as error:
        raise _WrongContentError(f"not the archive that was expected: {error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
