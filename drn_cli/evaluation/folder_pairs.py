"""Which image of a folder belongs to which label map of another, by their names."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drn_cli.data.file_search import ENDINGS, LeftOut, search
from drn_cli.data.folders import Sample
from drn_cli.data.prepare.matching import match_names
from drn_cli.errors import DrnError
from drn_cli.files import require_folder

FRAME = re.compile(r"([A-Za-z-]+_\d{6}_\d{6})(?!\d)")  # city_sequence_frame, of Cityscapes
# Of the files that Cityscapes has of a frame: what is no label map, and which map is taken first.
NO_MAPS = ("_instanceIds", "_instanceTrainIds", "_color")
NO_LABEL = re.compile(rf"(?s:(.*/)?){FRAME.pattern}(?s:.*)({'|'.join(NO_MAPS)})\.\w+")
PREFERRED = ("_labelTrainIds", "_trainIds", "_labelIds")


@dataclass(frozen=True, slots=True)
class FolderPairs:
    """Images, or predictions, and their label maps.

    Attributes:
        samples: The pairs, in the order of the images' paths.
        by: What they were paired by, in words.
        images_without_label: Images without a label map.
        labels_without_image: Label maps without an image.
        lost: Number of pairs of which neither file can be read, such as links to nothing.
        left_out: What was left out of each folder that has such files, in words.
    """

    samples: Sequence[Sample]
    by: str
    images_without_label: Sequence[Path]
    labels_without_image: Sequence[Path]
    lost: int = 0
    left_out: Sequence[str] = ()

    @property
    def expected(self) -> int:
        """Number of pairs that there would be if nothing lacked a counterpart."""
        return (
            len(self.samples)
            + len(self.images_without_label)
            + len(self.labels_without_image)
            + self.lost
        )


def pair_folders(
    images: Path, labels: Path, image_suffix: str | None = None, label_suffix: str | None = None
) -> FolderPairs:
    """Pair the images and label maps of two folders, with all that is below them.

    Files of Cityscapes belong together by city, sequence and frame, whatever follows. Others do by
    their names, without a suffix that all images or all labels have.

    Args:
        images: Folder of the images.
        labels: Folder of the label maps.
        image_suffix: What the stems of images end with; others are passed over.
        label_suffix: The same for label maps.

    Raises:
        DrnError: A folder is missing or empty, nothing belongs together, or an image could belong
            to several label maps.
    """
    found, images_out = _files(images, image_suffix)
    maps, labels_out = _files(labels, label_suffix, NO_LABEL)
    pairs = _pair(found, maps, images, labels, image_suffix, label_suffix)
    # A lost file whose counterpart is there counts as the lack of it.
    lost = max(
        images_out.lost - len(pairs.labels_without_image),
        labels_out.lost - len(pairs.images_without_label),
        0,
    )
    both = ((images, images_out), (labels, labels_out))
    texts = [f"{folder}: {left_out}" for folder, left_out in both if left_out.lost]
    return replace(pairs, lost=lost, left_out=texts)


def _pair(
    found: Sequence[Path],
    maps: Sequence[Path],
    images: Path,
    labels: Path,
    image_suffix: str | None,
    label_suffix: str | None,
) -> FolderPairs:
    image_frames, label_frames = _by_frame(found), _by_frame(maps)
    common = image_frames.keys() & label_frames.keys()
    if common:
        pairs = {
            _only(frame, image_frames[frame], images): _label(frame, label_frames[frame], labels)
            for frame in common
        }
        return _folder_pairs(
            pairs,
            "city, sequence and frame",
            [path for path in found if path not in pairs],
            [
                *(paths[0] for frame, paths in label_frames.items() if frame not in common),
                *(path for path in maps if not FRAME.match(path.name)),
            ],
        )
    if image_frames and label_frames:
        raise DrnError(
            f"{images} and {labels}: have no frame in common: images of "
            f"{next(iter(image_frames))}, label maps of {next(iter(label_frames))}"
        )
    matching = match_names(
        [path.relative_to(images).as_posix() for path in found],
        [path.relative_to(labels).as_posix() for path in maps],
        image_suffix,
        label_suffix,
    )
    return _folder_pairs(
        {images / match.image: labels / match.label for match in matching.matches},
        f"name ({matching})",
        [images / name for name in matching.without_label],
        [labels / name for name in matching.without_image],
    )


def _folder_pairs(
    pairs: Mapping[Path, Path], by: str, images: Iterable[Path], labels: Iterable[Path]
) -> FolderPairs:
    samples = [Sample(image, pairs[image]) for image in sorted(pairs)]
    return FolderPairs(samples, by, sorted(images), sorted(labels))


def _files(
    folder: Path, suffix: str | None, never: re.Pattern[str] | None = None
) -> tuple[list[Path], LeftOut]:
    """List the files that are meant; others are not missed if they cannot be read."""
    require_folder(folder, "images")
    endings = "|".join(map(re.escape, ENDINGS))
    other = re.compile(rf"(?is:.*)(?<!{re.escape(suffix)})(?i:{endings})") if suffix else never
    left_out = LeftOut(lambda _, name: other is None or not other.fullmatch(name))
    found = sorted(
        path
        for name, _ in search(folder, left_out)
        if (path := Path(name)).stem.endswith(suffix or "")
    )
    if not found:
        ending = f" whose name ends with {suffix}" if suffix else ""
        seen_anyway = f" ({left_out})" if left_out else ""
        raise DrnError(f"{folder}: no images here{ending}{seen_anyway}")
    left_out.log(folder)
    return found, left_out


def _by_frame(paths: Iterable[Path]) -> Mapping[str, list[Path]]:
    frames: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if found := FRAME.match(path.name):
            frames[found[1]].append(path)
    return frames


def _label(frame: str, paths: Sequence[Path], folder: Path) -> Path:
    """Choose the label map among the files of a frame."""
    maps = [path for path in paths if not path.stem.endswith(NO_MAPS)]
    for suffix in PREFERRED:
        preferred = [path for path in maps if path.stem.endswith(suffix)]
        if preferred:
            return _only(frame, preferred, folder, "label")
    return _only(frame, maps or paths, folder, "label")


def _only(frame: str, paths: Sequence[Path], folder: Path, kind: str = "image") -> Path:
    if len(paths) > 1:
        names = [path.relative_to(folder) for path in paths[:3]]
        endings = [path.stem.removeprefix(frame) for path in paths]
        hint = f"give one of the folders, such as {paths[0].parent}"
        if len(set(endings)) > 1:
            ending = next(filter(None, endings))
            hint = f"choose some by the end of their names: --{kind}-suffix {ending}"
        raise DrnError(f"{folder}: several files of {frame}: {' and '.join(map(str, names))}", hint)
    return paths[0]
