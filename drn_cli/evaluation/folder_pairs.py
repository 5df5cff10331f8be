"""Pair the images of a folder with the label maps of another by name."""

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

FRAME = re.compile(r"([A-Za-z-]+_\d{6}_\d{6})(?!\d)")  # Cityscapes: city_sequence_frame
# Files that Cityscapes has of a frame: those that are no label maps, and the order of preference.
NO_MAPS = ("_instanceIds", "_instanceTrainIds", "_color")
NO_LABEL = re.compile(rf"(?s:(.*/)?){FRAME.pattern}(?s:.*)({'|'.join(NO_MAPS)})\.\w+")
PREFERRED = ("_labelTrainIds", "_trainIds", "_labelIds")


@dataclass(frozen=True, slots=True)
class FolderPairs:
    """Images or predictions, paired with label maps."""

    samples: Sequence[Sample]  # the pairs, in the order of the images' paths
    matched_by: str  # description of how names were matched
    unpaired_images: Sequence[Path]  # images without a label map
    unpaired_labels: Sequence[Path]  # label maps without an image
    lost: int = 0  # number of pairs of which neither file can be read (broken links)
    # Description of the files left out of a folder, one for each such folder
    left_out: Sequence[str] = ()

    @property
    def expected(self) -> int:
        """Number of pairs if every file had a counterpart."""
        unpaired = len(self.unpaired_images) + len(self.unpaired_labels)
        return len(self.samples) + unpaired + self.lost


def pair_folders(
    images: Path, labels: Path, image_suffix: str | None = None, label_suffix: str | None = None
) -> FolderPairs:
    """Pair the images and label maps of two folders and their subfolders.

    Files of Cityscapes are matched by city, sequence and frame, other files by their names without
    a suffix that all images or all label maps share.

    Args:
        images: Folder of the images.
        labels: Folder of the label maps.
        image_suffix: Suffix of the stems of images; files without it are ignored.
        label_suffix: The same for label maps.

    Raises:
        DrnError: A folder is missing or empty, no names match, or an image matches several label
            maps.
    """
    found, images_out = _files(images, image_suffix)
    maps, labels_out = _files(labels, label_suffix, NO_LABEL)
    pairs = _pair(found, maps, images, labels, image_suffix, label_suffix)
    # A lost file whose counterpart exists is counted as that counterpart's missing partner.
    lost = max(
        images_out.lost - len(pairs.unpaired_labels),
        labels_out.lost - len(pairs.unpaired_images),
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
            f"{images} and {labels}: no frame in common (images have {next(iter(image_frames))}, "
            f"label maps have {next(iter(label_frames))})"
        )
    matching = match_names(
        [path.relative_to(images).as_posix() for path in found],
        [path.relative_to(labels).as_posix() for path in maps],
        image_suffix,
        label_suffix,
    )
    return _folder_pairs(
        {images / pair.image: labels / pair.label for pair in matching.pairs},
        f"name ({matching})",
        [images / name for name in matching.without_label],
        [labels / name for name in matching.without_image],
    )


def _folder_pairs(
    pairs: Mapping[Path, Path], matched_by: str, images: Iterable[Path], labels: Iterable[Path]
) -> FolderPairs:
    samples = [Sample(image, pairs[image]) for image in sorted(pairs)]
    return FolderPairs(samples, matched_by, sorted(images), sorted(labels))


def _files(
    folder: Path, suffix: str | None, ignored: re.Pattern[str] | None = None
) -> tuple[list[Path], LeftOut]:
    """List the image files of a folder that have a suffix, and what was left out of them.

    Unreadable files are counted unless they lack the suffix, or match `ignored` if there is none.
    """
    require_folder(folder, "images")
    endings = "|".join(map(re.escape, ENDINGS))
    other = re.compile(rf"(?is:.*)(?<!{re.escape(suffix)})(?i:{endings})") if suffix else ignored
    left_out = LeftOut(lambda _, name: other is None or not other.fullmatch(name))
    found = sorted(
        path
        for name, _ in search(folder, left_out)
        if (path := Path(name)).stem.endswith(suffix or "")
    )
    if not found:
        ending = f" whose name ends with {suffix}" if suffix else ""
        skipped = f" ({left_out})" if left_out else ""
        raise DrnError(f"{folder}: no images here{ending}{skipped}")
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
        hint = f"pass a subfolder, as {paths[0].parent}"
        if len(set(endings)) > 1:
            hint = f"select by suffix: --{kind}-suffix {next(filter(None, endings))}"
        raise DrnError(
            f"{folder}: several files of frame {frame}: {' and '.join(map(str, names))}", hint
        )
    return paths[0]
