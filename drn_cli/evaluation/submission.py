"""Write and check submissions to the Cityscapes benchmark server.

A submission is a zip file with one PNG for each of the 1525 test images and nothing else. A PNG is
2048x1024, 8-bit, holds label ids (not train ids), and its name begins with city, sequence and frame
of the image, as the submission page and the official evaluation script require.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import numpy as np

from drn_cli.data.audit.labels import LABEL_ID
from drn_cli.data.classes import IGNORED, cityscapes_train_ids
from drn_cli.data.images import Pixels, encode_png, read_header, read_label
from drn_cli.data.parallel import Progress
from drn_cli.errors import DrnError, FaultError
from drn_cli.files import atomic
from drn_cli.integrity import ZIP_ERRORS, fault_of, open_regular

TEST_CITIES = {
    "berlin": 544,
    "bielefeld": 181,
    "bonn": 46,
    "leverkusen": 58,
    "mainz": 298,
    "munich": 398,
}  # number of images per city
SIZE = (2048, 1024)  # width and height
FRAME = re.compile(r"([a-z-]+)_\d{6}_\d{6}(?!\d)")
MAX_BYTES = 16 << 20  # of a PNG; even uncompressed label maps have an eighth of that
THREADS = 4
CHUNK = 16 * THREADS  # maps encoded ahead of writing
Read = TypeVar("Read")
EPOCH = (1980, 1, 1, 0, 0, 0)  # date of all entries: equal predictions give an equal zip file


@dataclass(frozen=True, slots=True)
class SubmissionFinding:
    """An error or a warning about a submission."""

    severity: Literal["error", "warning"]
    message: str


@dataclass(frozen=True, slots=True)
class Submission:
    """Result of checking a zip file."""

    images: int  # number of label maps
    bytes: int  # size of the file
    findings: tuple[SubmissionFinding, ...]  # errors and warnings

    @property
    def errors(self) -> list[SubmissionFinding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def to_json(self) -> dict[str, Any]:
        findings = [{"severity": one.severity, "message": one.message} for one in self.findings]
        return {"images": self.images, "bytes": self.bytes, "findings": findings}


def frame_id(name: str) -> str | None:
    """Return city, sequence and frame (`berlin_000000_000019`) at the start of a file's name."""
    found = FRAME.match(PurePosixPath(name).name)
    return found[0] if found else None


def check_inputs(paths: Sequence[str], *, partial: bool) -> None:
    """Check that images are the Cityscapes test set, before anything is predicted.

    Args:
        paths: The images.
        partial: Whether to accept fewer images, and other cities.

    Raises:
        DrnError: A name or a size is not that of a Cityscapes image, or images are repeated or
            missing.
    """
    frames: dict[str, str] = {}
    for path in paths:
        frame = frame_id(path)
        if frame is None:
            raise DrnError(
                f"{path}: not a name of Cityscapes", "CITY_SEQUENCE_FRAME_leftImg8bit.png"
            )
        if frame in frames:
            raise DrnError(f"{path} and {frames[frame]} are both images of frame {frame}")
        frames[frame] = path
    with ThreadPoolExecutor(THREADS) as pool:
        headers = pool.map(lambda path: read_header(Path(path)), paths)
        for path, header in zip(paths, headers, strict=True):
            if header.size != SIZE:
                raise DrnError(f"{path}: {_size_problem(header.size)}")
    if not partial and (wrong := _wrong_cities(frames)):
        raise DrnError(
            f"not the images of the Cityscapes test set: {wrong}",
            "pass all of leftImg8bit/test, or --partial for a zip file that the server rejects",
        )


def _size_problem(size: tuple[int, int]) -> str:
    return f"size is {size[0]}x{size[1]}, not {SIZE[0]}x{SIZE[1]}"


def _wrong_cities(frames: Iterable[str]) -> str:
    """Describe the cities whose number of frames differs from the test set; empty if none does."""
    counts = Counter(frame.rsplit("_", 2)[0] for frame in frames)
    cities = [*TEST_CITIES, *sorted(counts.keys() - TEST_CITIES.keys())]
    return ", ".join(
        f"{city} has {counts[city]} instead of {TEST_CITIES.get(city, 0)}"
        for city in cities
        if counts[city] != TEST_CITIES.get(city, 0)
    )


def write_submission(
    path: Path, maps: Mapping[str, Path], progress: Progress = lambda done, total: None
) -> None:
    """Pack index maps of train ids as label ids, atomically.

    Args:
        path: The zip file.
        maps: The index map of each frame, by frame id.
        progress: Called with the number of maps packed, and of all.

    Raises:
        DrnError: A map cannot be read, or the zip file cannot be written.
    """
    table = np.zeros(256, np.uint8)  # train ids to label ids; void becomes 0, "unlabeled"
    train_ids = cityscapes_train_ids()
    evaluated = np.flatnonzero(train_ids != IGNORED)
    table[train_ids[evaluated]] = evaluated
    frames = sorted(maps)
    with (
        atomic(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for start in range(0, len(frames), CHUNK):  # not all in memory
            some = frames[start : start + CHUNK]
            pngs = pool.map(lambda frame: encode_png(table[read_label(maps[frame])]), some)
            for done, (frame, content) in enumerate(zip(some, pngs, strict=True), start + 1):
                # Not compressed again: a PNG is.
                archive.writestr(zipfile.ZipInfo(f"{frame}_labelIds.png", EPOCH), content)
                progress(done, len(maps))


def check_submission(
    path: Path, frames: Iterable[str] | None = None, progress: Progress = lambda done, total: None
) -> Submission:
    """Find what the server would reject or score as wrong in a zip file, read completely.

    Args:
        path: The zip file.
        frames: Frame ids of the images; by default only the number of images of each city is
            compared with the test set.
        progress: Called with the number of maps checked, and of all.

    Raises:
        DrnError: The file is missing, not a zip file, or cannot be read.
    """
    with open_regular(path, "a zip file") as file:
        try:
            archive = zipfile.ZipFile(file)
        except ZIP_ERRORS as error:
            broken = DrnError(f"{path}: not a zip file, or damaged: {error}")
            raise fault_of(path, error) or broken from error
        infos = [info for info in archive.infolist() if not info.is_dir()]
        findings = list(_check_names(infos, frames))
        maps = [info for info in infos if frame_id(info.filename) and _is_png(info.filename)]
        findings += _check_maps(archive, path, maps, progress)
    return Submission(len(maps), path.stat().st_size, tuple(findings))


def _is_png(name: str) -> bool:
    return PurePosixPath(name).suffix == ".png"


def _check_names(
    infos: Sequence[zipfile.ZipInfo], frames: Iterable[str] | None
) -> Iterator[SubmissionFinding]:
    found: dict[str, str] = {}
    for name in (info.filename for info in infos):
        frame = frame_id(name)
        if frame is None or not _is_png(name):
            yield SubmissionFinding("error", f"{name}: not named CITY_SEQUENCE_FRAME*.png")
        elif frame in found:
            yield SubmissionFinding("error", f"{name} and {found[frame]} are both of frame {frame}")
        else:
            found[frame] = name
    if frames is None:
        if wrong := _wrong_cities(found):
            yield SubmissionFinding("error", f"not one map per test image: {wrong}")
        return
    expected = set(frames)
    for frame in sorted(expected ^ found.keys()):
        problem = "missing" if frame in expected else f"not one of the {len(expected)} images"
        yield SubmissionFinding("error", f"{frame}: {problem}")


def _check_maps(
    archive: zipfile.ZipFile, path: Path, infos: Sequence[zipfile.ZipInfo], progress: Progress
) -> Iterator[SubmissionFinding]:
    values: set[int] = set()

    def check(info: zipfile.ZipInfo) -> tuple[list[SubmissionFinding], set[int]]:
        try:
            pixels = _read_map(archive, path, info)
        except FaultError:
            raise
        except DrnError as error:
            return [SubmissionFinding("error", f"{info.filename}: {error.message}")], set()
        found = set(np.unique(pixels).tolist())
        unknown = sorted(found - set(LABEL_ID))
        return [
            SubmissionFinding("error", f"{info.filename}: value {value} is not a label id")
            for value in unknown[:1]
        ], found

    with ThreadPoolExecutor(THREADS) as pool:
        for done, (findings, found) in enumerate(pool.map(check, infos), start=1):
            yield from findings
            values |= found
            progress(done, len(infos))
    ignored = set(np.flatnonzero(cityscapes_train_ids() == IGNORED).tolist()) & set(LABEL_ID)
    # Train ids end at 18, and half of them are label ids of void.
    if values and max(values) < 19 and len(values & ignored) > 1:
        yield SubmissionFinding("error", "the maps hold train ids (0 to 18) instead of label ids")
    elif void := sorted(values & ignored):
        yield SubmissionFinding(
            "warning", f"some pixels have ids that are not evaluated and count as errors: {void}"
        )


def _read_map(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> Pixels:
    if info.flag_bits & 1:
        raise DrnError("encrypted")
    if info.file_size > MAX_BYTES:
        raise DrnError(f"{info.file_size:,} bytes are too large for a label map")
    try:
        content = archive.read(info)
    except ZIP_ERRORS as error:
        raise fault_of(path, error) or DrnError(f"cannot be unpacked: {error}") from error
    header = _readable(read_header, content)
    if header.size != SIZE:
        raise DrnError(_size_problem(header.size))
    if header.mode not in {"L", "P"}:
        raise DrnError(f"pixel mode is {header.mode}, not 8-bit grayscale or palette")
    return _readable(read_label, content)


def _readable(read: Callable[[bytes], Read], content: bytes) -> Read:
    """Read a file of the zip; the caller adds its name to errors."""
    try:
        return read(content)
    except DrnError as error:
        message = error.message.removeprefix("image: ")
        raise DrnError(f"cannot be read: {message}", error.hint) from error
