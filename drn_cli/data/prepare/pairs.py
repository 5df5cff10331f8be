"""Anyone's folders of pictures and labels, made into a data folder."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from drn_cli.data.images import SUFFIXES
from drn_cli.data.prepare.class_files import read_class_file
from drn_cli.data.prepare.class_tables import named, sort_out
from drn_cli.data.prepare.common import Prepared, Progress, fingerprint, in_parallel, up_to_date
from drn_cli.data.prepare.label_reading import Reading, choose_reading, look
from drn_cli.data.prepare.matching import Match, Matching, match_names
from drn_cli.data.prepare.placing import (
    SPLITS,
    Placed,
    Seen,
    make_folders,
    place_pair,
    write_lists_and_info,
)
from drn_cli.data.prepare.splits import Shares, split
from drn_cli.errors import DrnError
from drn_cli.files import atomic_folder


@dataclass(frozen=True, slots=True)
class Folders:
    """Where pictures and labels are, and which belong together."""

    images: Path
    labels: Path
    matching: Matching

    def label_files(self) -> list[Path]:
        return [self.labels / match.label for match in self.matching.matches]

    def image_files(self) -> list[Path]:
        return [self.images / match.image for match in self.matching.matches]


@dataclass(frozen=True, slots=True)
class Job:
    """A pair, and where it goes."""

    match: Match
    placed: Placed


def match_folders(
    images: Path,
    labels: Path,
    *,
    image_suffix: str | None = None,
    label_suffix: str | None = None,
    skip_unmatched: bool = False,
) -> Folders:
    """Find pictures and labels below two folders, and which belong together.

    Args:
        images: Folder of the pictures.
        labels: Folder of the labels. One may lie in the other; if they are the same, the suffix
            of the labels has to be given.
        image_suffix: What stems of pictures end with; None means to find it.
        label_suffix: The same for labels.
        skip_unmatched: Whether pictures without label, and labels without picture, are left out.

    Raises:
        DrnError: A folder is missing or empty, names are ambiguous, or something has no
            counterpart.
    """
    found_images, found_labels = _names(images, labels), _names(labels, images)
    if images.resolve() == labels.resolve():
        if not label_suffix:
            raise DrnError(
                f"{images}: holds pictures and labels", "tell them apart with --label-suffix _mask"
            )
        found_images = [name for name in found_images if not Path(name).stem.endswith(label_suffix)]
    for folder, found in ((images, found_images), (labels, found_labels)):
        if not found:
            raise DrnError(f"{folder}: has no pictures ({', '.join(sorted(SUFFIXES))})")
    matching = match_names(found_images, found_labels, image_suffix, label_suffix)
    lone = [
        f"{what}: {len(names)} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
        for what, names in (
            ("pictures without a label", matching.without_label),
            ("labels without a picture", matching.without_picture),
        )
        if names
    ]
    if lone and not skip_unmatched:
        raise DrnError(f"{matching}; {'; '.join(lone)}", "leave these out with --skip-unmatched")
    return Folders(images, labels, matching)


def _names(folder: Path, other: Path) -> list[str]:
    """List the pictures below a folder, by their paths below it, but not those of the other."""
    if not folder.is_dir():
        raise DrnError(f"{folder}: no such folder")
    apart = other.resolve()
    names = []
    for place, inner, files in os.walk(folder):
        inner[:] = [
            name
            for name in inner
            if not name.startswith(".") and (Path(place) / name).resolve() != apart
        ]
        for name in files:
            path = Path(place) / name
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                names.append(_listable(path.relative_to(folder).as_posix(), folder))
    return names


def _listable(name: str, folder: Path) -> str:
    """Refuse a name that a list, one path a line, cannot hold."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DrnError(f"{folder / ascii(name)}: the name is not UTF-8", "rename it") from error
    if len(name.splitlines()) != 1:
        raise DrnError(f"{folder / ascii(name)}: the name has a line break", "rename it")
    return name


def prepare_pairs(
    folders: Folders,
    out: Path,
    progress: Progress | None = None,
    *,
    classes: Path | None = None,
    ignore: Sequence[str] = (),
    unknown_as_void: bool = False,
    shares: Shares | None = None,
) -> Prepared:
    """Make a data folder from pictures and labels, with all cores.

    The sources are only read. A folder that was made from the same files in the same way is left
    as it is; a failure leaves nothing behind.

    Args:
        folders: What `match_folders` found.
        out: The data folder to make.
        progress: Called with files done and files in all: each label counts twice, because all
            of them are looked at first.
        classes: A class file; without one, labels have to hold values.
        ignore: Names of classes, and label values, to ignore besides void and 255.
        unknown_as_void: Whether colours and values that stand for no class are ignored.
        shares: How to split.

    Raises:
        DrnError: A broken file, colours or values of no class, a label of another size than its
            picture, too few pictures to split, or `out` holds something else.
    """
    _refuse_inside(out, folders)
    shares = shares or Shares()
    rows = read_class_file(classes) if classes else []
    names, values = sort_out(ignore, rows)
    table = named(rows, names, values) if rows else None
    matches = folders.matching.matches
    placed = [
        Placed(part, f"images/{match.image}", f"labels/{_with_format(match.image)}")
        for part, match in zip(split([m.stem for m in matches], shares), matches, strict=True)
    ]
    counts = {part: sum(one.split == part for one in placed) for part in SPLITS}
    made_from = _digest(
        fingerprint(folders.images, folders.image_files()),
        fingerprint(folders.labels, folders.label_files()),
        *(f"{row.name} {row.colour} {row.value}" for row in rows),
        f"{sorted(ignore)} {unknown_as_void} {asdict(shares)}",
        *(f"{match.image} {match.label}" for match in matches),
    )
    if up_to_date(out, made_from):
        return Prepared(out, counts, unchanged=True)
    found = look(folders.label_files(), _part(progress, 0))
    reading = choose_reading(found, table, values, unknown_as_void)
    with atomic_folder(out) as folder:
        make_folders(folder, placed)
        jobs = [Job(match, to) for match, to in zip(matches, placed, strict=True)]
        work = partial(_convert, folders.images, folders.labels, folder, reading)
        seen = list(in_parallel(work, jobs, _part(progress, len(jobs))))
        write_lists_and_info(
            folder, placed, seen, reading.class_set, dataset="pairs", made_from=made_from
        )
    return Prepared(out, counts, unchanged=False)


def _refuse_inside(out: Path, folders: Folders) -> None:
    """Refuse a data folder whose pictures a second run would take for sources."""
    for folder in (folders.images, folders.labels):
        if folder.resolve() in [out.resolve(), *out.resolve().parents]:
            raise DrnError(f"{out}: lies in {folder}", "choose another folder with --out")


def _with_format(name: str) -> str:
    return Path(name).with_suffix(".png").as_posix()


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _part(progress: Progress | None, before: int) -> Progress | None:
    """Count one of two rounds over all files as half of the whole."""
    if progress is None:
        return None
    tell = progress
    return lambda done, total: tell(before + done, 2 * total)


def _convert(images: Path, labels: Path, folder: Path, reading: Reading, job: Job) -> Seen:
    """Place a picture, write its label as class ids, and sum both up."""
    label = labels / job.match.label
    return place_pair(folder, job.placed, images / job.match.image, label, reading.ids(label))
