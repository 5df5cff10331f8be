"""A zip file as the Cityscapes server takes it: written, and checked, others' too.

For each of the 1525 test images it holds one PNG whose name begins with the image's city,
sequence and frame, of 2048x1024 pixels of 8 bits that are label ids (not train ids), and nothing
else. That is what the benchmark's submission page and its own evaluation script ask for.
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
from drn_cli.data.images import Pixels, index_png, read_header, read_label
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
}  # images of each
SIZE = (2048, 1024)  # width and height
FRAME = re.compile(r"([a-z-]+)_\d{6}_\d{6}(?!\d)")
LARGEST_FILE = 16 << 20  # bytes of a PNG; with 8 bits a pixel it cannot have a fifth of that
THREADS = 4
Read = TypeVar("Read")
EPOCH = (1980, 1, 1, 0, 0, 0)  # of all files in the zip: the same predictions give the same zip


@dataclass(frozen=True, slots=True)
class SubmissionFinding:
    """One thing that is wrong with a submission, or odd."""

    severity: Literal["error", "warning"]
    message: str


@dataclass(frozen=True, slots=True)
class Submission:
    """What a zip file holds.

    Attributes:
        images: How many label maps.
        bytes: Size of the file.
        findings: What is wrong or odd.
    """

    images: int
    bytes: int
    findings: tuple[SubmissionFinding, ...]

    @property
    def errors(self) -> list[SubmissionFinding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def to_json(self) -> dict[str, Any]:
        """Give it ready for JSON."""
        findings = [{"severity": one.severity, "message": one.message} for one in self.findings]
        return {"images": self.images, "bytes": self.bytes, "findings": findings}


def frame_id(name: str) -> str | None:
    """Give city, sequence and frame that a file's name begins with, `berlin_000000_000019`."""
    found = FRAME.match(PurePosixPath(name).name)
    return found[0] if found else None


def check_inputs(paths: Sequence[str], *, partial: bool) -> None:
    """See, before anything is predicted, that images are those of which the server wants maps.

    Args:
        paths: The images.
        partial: Whether there may be fewer, and of other cities than those of the test set.

    Raises:
        DrnError: A name or a size is not that of a Cityscapes image, one is there twice, or some
            are missing.
    """
    frames: dict[str, str] = {}
    for path in paths:
        frame = frame_id(path)
        if frame is None:
            raise DrnError(
                f"{path}: an image of Cityscapes is called CITY_SEQUENCE_FRAME_leftImg8bit.png"
            )
        if frame in frames:
            raise DrnError(f"{path} and {frames[frame]} are both images of {frame}")
        frames[frame] = path
    with ThreadPoolExecutor(THREADS) as pool:
        for path, size in zip(paths, pool.map(_size, paths), strict=True):
            if size != SIZE:
                raise DrnError(f"{path}: is {size[0]}x{size[1]}, not {SIZE[0]}x{SIZE[1]}")
    if not partial and (wrong := _wrong_cities(frames)):
        raise DrnError(
            f"these are not the images of the test set: {wrong}",
            "give all of leftImg8bit/test, or --partial for a zip that the server will not take",
        )


def _size(path: str) -> tuple[int, int]:
    return read_header(Path(path)).size


def _wrong_cities(frames: Iterable[str]) -> str:
    """Say of which cities there are not as many frames as in the test set; nothing if all fit."""
    there = Counter(frame.rsplit("_", 2)[0] for frame in frames)
    cities = [*TEST_CITIES, *sorted(there.keys() - TEST_CITIES.keys())]
    wrong = [
        f"{there[city]} of {city} instead of {TEST_CITIES.get(city, 0)}"
        for city in cities
        if there[city] != TEST_CITIES.get(city, 0)
    ]
    return ", ".join(wrong)


def write_submission(
    path: Path, maps: Mapping[str, Path], progress: Progress = lambda done, total: None
) -> None:
    """Pack index maps of train ids as label ids, the whole file or nothing.

    Args:
        path: The zip file.
        maps: The index map of each frame, by city, sequence and frame.
        progress: Told how many are packed, of all.

    Raises:
        DrnError: A map cannot be read, or the zip file not be written.
    """
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        packed = _ahead(_as_label_ids, dict(sorted(maps.items())))
        for done, (frame, content) in enumerate(packed, start=1):
            # PNGs are compressed already.
            archive.writestr(zipfile.ZipInfo(f"{frame}_labelIds.png", EPOCH), content)
            progress(done, len(maps))


def _as_label_ids(path: Path) -> bytes:
    table = np.zeros(256, np.uint8)  # void becomes 0, "unlabeled"
    train_ids = cityscapes_train_ids()
    counted = np.flatnonzero(train_ids != IGNORED)
    table[train_ids[counted]] = counted
    return index_png(table[read_label(path)])


def _ahead(work: Callable[[Path], bytes], items: Mapping[str, Path]) -> Iterator[tuple[str, bytes]]:
    with ThreadPoolExecutor(THREADS) as pool:
        names = list(items)
        for start in range(0, len(names), 16 * THREADS):  # not all in memory at once
            some = names[start : start + 16 * THREADS]
            yield from zip(some, pool.map(work, (items[name] for name in some)), strict=True)


def check_submission(
    path: Path,
    frames: Iterable[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Submission:
    """Read a zip file whole, and find what the server would refuse or score as wrong.

    Args:
        path: The zip file, anybody's.
        frames: City, sequence and frame of each image that has to be there; without them, as
            many of each city are wanted as the test set has.
        progress: Told how many maps are looked at, of all.

    Raises:
        DrnError: There is no such file, it is no zip file, or it cannot be read.
    """
    with open_regular(path, "a zip file") as file:
        try:
            archive = zipfile.ZipFile(file)
        except ZIP_ERRORS as error:
            broken = DrnError(f"{path}: not a zip file, or a broken one: {error}")
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
    names = [info.filename for info in infos]
    strangers = [name for name in names if not (frame_id(name) and _is_png(name))]
    for name in strangers:
        yield SubmissionFinding("error", f"{name}: is no CITY_SEQUENCE_FRAME*.png")
    there: dict[str, str] = {}
    for name in names:
        frame = frame_id(name)
        if frame is None or name in strangers:
            continue
        if frame in there:
            yield SubmissionFinding("error", f"{name} and {there[frame]} are both of {frame}")
        there.setdefault(frame, name)
    if frames is None:
        if wrong := _wrong_cities(there):
            yield SubmissionFinding("error", f"not one map for each test image: {wrong}")
        return
    wanted = set(frames)
    for what, some in (("is missing", wanted - there.keys()), ("is none", there.keys() - wanted)):
        for frame in sorted(some):
            yield SubmissionFinding("error", f"{frame}: {what} of the {len(wanted)} images")


def _check_maps(
    archive: zipfile.ZipFile, path: Path, infos: Sequence[zipfile.ZipInfo], progress: Progress
) -> Iterator[SubmissionFinding]:
    values: set[int] = set()

    def look(info: zipfile.ZipInfo) -> tuple[list[SubmissionFinding], set[int]]:
        try:
            pixels = _read_map(archive, path, info)
        except FaultError:
            raise
        except DrnError as error:
            return [SubmissionFinding("error", f"{info.filename}: {error.message}")], set()
        found = set(np.unique(pixels).tolist())
        unknown = sorted(found - set(LABEL_ID))
        message = f"{info.filename}: has the value {unknown[0] if unknown else ''}, no label id"
        return ([SubmissionFinding("error", message)] if unknown else []), found

    with ThreadPoolExecutor(THREADS) as pool:
        for done, (findings, found) in enumerate(pool.map(look, infos), start=1):
            yield from findings
            values |= found
            progress(done, len(infos))
    ignored = set(np.flatnonzero(cityscapes_train_ids() == IGNORED).tolist()) & set(LABEL_ID)
    # Train ids end at 18, and half of them are label ids of void.
    if values and max(values) < 19 and len(values & ignored) > 1:
        yield SubmissionFinding(
            "error", "the maps hold train ids (0 to 18), where label ids are wanted"
        )
    elif void := sorted(values & ignored):
        yield SubmissionFinding(
            "warning",
            f"some pixels have ids that are not evaluated, which counts as wrong: {void}",
        )


def _read_map(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> Pixels:
    if info.flag_bits & 1:
        raise DrnError("is encrypted")
    if info.file_size > LARGEST_FILE:
        raise DrnError(f"has {info.file_size} bytes, too many for a label map")
    try:
        content = archive.read(info)
    except ZIP_ERRORS as error:
        raise fault_of(path, error) or DrnError(f"cannot be unpacked: {error}") from error
    header = _readable(read_header, content)
    if header.size != SIZE:
        raise DrnError(f"is {header.size[0]}x{header.size[1]}, not {SIZE[0]}x{SIZE[1]}")
    if header.mode not in {"L", "P"}:
        raise DrnError(f"has pixels of mode {header.mode}, not single ids of 8 bits")
    return _readable(read_label, content)


def _readable(read: Callable[[bytes], Read], content: bytes) -> Read:
    """Read the content of a file in the zip, whose name is said by others."""
    try:
        return read(content)
    except DrnError as error:
        message = error.message.removeprefix("image: ")
        raise DrnError(f"cannot be read: {message}", error.hint) from error
