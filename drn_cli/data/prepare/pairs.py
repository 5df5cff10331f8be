"""Anyone's folders of images and labels, made into a data folder."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from drn_cli.data.file_search import ENDINGS, NO_PARTNER, LeftOut, search
from drn_cli.data.parallel import Progress, in_parallel
from drn_cli.data.prepare.class_files import read_class_file
from drn_cli.data.prepare.class_tables import named, sort_out
from drn_cli.data.prepare.common import PrepareResult, claimed, fingerprint, new_folder, up_to_date
from drn_cli.data.prepare.given_split import ANOTHER, find_split
from drn_cli.data.prepare.label_reading import LabelEncoding, choose_reading, look
from drn_cli.data.prepare.matching import Pair, PairingResult, match_names
from drn_cli.data.prepare.placing import (
    SPLITS,
    Seen,
    WrittenPair,
    make_folders,
    place_pair,
    write_lists_and_info,
)
from drn_cli.data.prepare.splits import SplitRatios, split
from drn_cli.errors import DrnError
from drn_cli.files import require_folder

IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "jpegimages", "photos", "rgb"})
LABEL_FOLDERS = frozenset(
    {"annotation", "annotations", "gt", "label", "labels", "mask", "masks", "segmentationclass"}
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where images and labels are, which belong together, and what is left out."""

    images: Path
    labels: Path
    matching: PairingResult
    left_out: LeftOut

    def label_files(self) -> list[Path]:
        return [self.labels / match.label for match in self.matching.matches]


@dataclass(frozen=True, slots=True)
class Job:
    """A pair, and where it goes."""

    match: Pair
    placed: WrittenPair


def match_folders(
    images: Path,
    labels: Path,
    *,
    image_suffix: str | None = None,
    label_suffix: str | None = None,
    skip_unmatched: bool = False,
) -> Folders:
    """Find images and labels below two folders, and which belong together.

    Args:
        images: Folder of the images.
        labels: Folder of the labels. One may lie in the other; if they are the same, labels are
            told apart by their suffix, or by folders named `images` and `labels` or the like.
        image_suffix: What stems of images end with; None means to find it.
        label_suffix: The same for labels.
        skip_unmatched: Whether images without label, and labels without image, are left out.

    Raises:
        DrnError: A folder is missing or empty, names are ambiguous, or something has no
            counterpart.
    """
    left_out = LeftOut()
    found_images = _names(images, labels, left_out)
    same = images.resolve() == labels.resolve()
    found_labels = found_images if same else _names(labels, images, left_out)
    # Names to match, without the folders that tell images and labels apart, and the real ones.
    image_names = {name: name for name in found_images}
    label_names = {name: name for name in found_labels}
    if same and label_suffix:
        image_names = {n: n for n in found_images if not Path(n).stem.endswith(label_suffix)}
    elif same:
        image_names = _without_folder(found_images, IMAGE_FOLDERS)
        label_names = _without_folder(found_images, LABEL_FOLDERS)
        if not image_names or not label_names:
            raise DrnError(
                f"{images}: holds images and labels",
                "tell them apart with --label-suffix _mask, or by folders images and labels",
            )
        for name in sorted(set(found_images) - {*image_names.values(), *label_names.values()}):
            left_out.add(NO_PARTNER, name)
    for folder, found in ((images, image_names), (labels, label_names)):
        if not found:
            seen_anyway = f"; {left_out}" if left_out else ""
            raise DrnError(f"{folder}: has no images ({', '.join(ENDINGS)}){seen_anyway}")
    matching = match_names([*image_names], [*label_names], image_suffix, label_suffix)
    matching = replace(
        matching,
        matches=[
            replace(match, image=image_names[match.image], label=label_names[match.label])
            for match in matching.matches
        ],
        without_label=[image_names[name] for name in matching.without_label],
        without_image=[label_names[name] for name in matching.without_image],
    )
    lone = [
        f"{what}: {len(names)} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
        for what, names in (
            ("images without a label", matching.without_label),
            ("labels without an image", matching.without_image),
        )
        if names
    ]
    if lone and not skip_unmatched:
        raise DrnError(f"{matching}; {'; '.join(lone)}", "leave these out with --skip-unmatched")
    for name in (*matching.without_label, *matching.without_image):
        left_out.add(NO_PARTNER, name)
    left_out.log(images if images == labels else f"{images}, {labels}")
    return Folders(images, labels, matching, left_out)


def _names(folder: Path, other: Path, left_out: LeftOut) -> list[str]:
    """List the images below a folder, by their paths below it, but not those of the other."""
    require_folder(folder, "images")
    return [_listable(name, folder) for _, name in search(folder, left_out, [other])]


def _without_folder(names: Sequence[str], folders: frozenset[str]) -> dict[str, str]:
    """Find the names that have a folder of one of these names, by what they are without it."""
    found: dict[str, str] = {}
    for name in names:
        *above, last = name.split("/")
        rest = [folder for folder in above if folder.casefold() not in folders]
        if len(rest) < len(above):
            other = found.setdefault("/".join([*rest, last]), name)
            if other != name:
                raise DrnError(
                    f"{other} and {name} have the same name", "name the two folders one by one"
                )
    return found


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
    shares: SplitRatios | None = None,
    keep_split: bool = True,
) -> PrepareResult:
    """Make a data folder from images and labels, with all cores.

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
        shares: How to split at random; by default as `SplitRatios` has it.
        keep_split: Whether a split that the source has is kept. Shares are refused then.

    Raises:
        DrnError: A broken file, colours or values of no class, a label of another size than its
            image, too few images to split, a kept split without training images, shares beside a
            split that is kept, or `out` holds something else.
    """
    _refuse_inside(out, folders)
    matches = folders.matching.matches
    given = find_split(folders.images, folders.labels, matches) if keep_split else None
    if given and shares:
        raise DrnError(
            f"--val, --test, --group and --seed: the source has a split ({given})",
            f"leave these out to keep it; {ANOTHER}",
        )
    if given and "train" not in given.splits:
        raise DrnError(f"the source has a split ({given}) without training images", ANOTHER)
    if given:
        log.info("split of the source kept, %s (%s)", given, ANOTHER)
        if "val" not in given.splits:
            log.warning("the source has no validation images, which training needs; %s", ANOTHER)
    shares = shares or SplitRatios()
    rows = read_class_file(classes) if classes else []
    names, values = sort_out(ignore, rows)
    table = named(rows, names, values) if rows else None
    if given:
        chosen = [(m, part) for m, part in zip(matches, given.splits, strict=True) if part]
        matches, parts = [match for match, _ in chosen], [part for _, part in chosen]
    else:
        parts = split([match.stem for match in matches], shares)
    placed = [
        WrittenPair(part, f"images/{match.image}", f"labels/{_with_format(match.image)}")
        for part, match in zip(parts, matches, strict=True)
    ]
    counts = {part: sum(one.split == part for one in placed) for part in SPLITS}
    made_from = _digest(
        fingerprint(folders.images, [folders.images / match.image for match in matches]),
        fingerprint(folders.labels, label_files := [folders.labels / m.label for m in matches]),
        *(f"{row.name} {row.colour} {row.value}" for row in rows),
        f"{sorted(ignore)} {unknown_as_void} {parts if given else asdict(shares)}",
        *(f"{match.image} {match.label}" for match in matches),
    )
    with claimed(out):
        if up_to_date(out, made_from):
            return PrepareResult(out, counts, unchanged=True)
        found = look(label_files, _part(progress, 0))
        reading = choose_reading(found, table, values, unknown_as_void)
        with new_folder(out) as folder:
            make_folders(folder, placed)
            jobs = [Job(match, to) for match, to in zip(matches, placed, strict=True)]
            work = partial(_convert, folders.images, folders.labels, folder, reading)
            seen = list(in_parallel(work, jobs, _part(progress, len(jobs))))
            write_lists_and_info(
                folder,
                placed,
                seen,
                reading.class_set,
                dataset="pairs",
                made_from=made_from,
                split=given.to_json() if given else {"kind": "random", **asdict(shares)},
            )
        return PrepareResult(out, counts, unchanged=False)


def _refuse_inside(out: Path, folders: Folders) -> None:
    """Refuse a data folder whose images a second run would take for sources."""
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


def _convert(images: Path, labels: Path, folder: Path, reading: LabelEncoding, job: Job) -> Seen:
    """Place an image, write its label as class ids, and sum both up."""
    label = labels / job.match.label
    return place_pair(folder, job.placed, images / job.match.image, label, reading.ids(label))
