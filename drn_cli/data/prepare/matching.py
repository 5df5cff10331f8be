"""Pair images and labels by file name, and detect the suffixes of the names.

An image and a label are a pair if their folder and stem are equal after the common suffix of all
images and that of all labels, such as `_mask`, are removed. If the folders differ, equal stems are
enough as long as no other image or label has this stem.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import PurePosixPath

from drn_cli.errors import DrnError, few_of

SAMPLED = 50  # names from which suffixes are guessed
TRIED = 30  # most frequent suffixes that are tried on all names
NEIGHBORS = 20  # names before and after a name, in sorted order, that are compared with it
SEPARATORS = "_-. "

Suffixes = tuple[str, str]  # of images and of labels


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its label, as paths relative to their folders."""

    stem: str  # the image's path without suffix and format, unique among the images
    image: str
    label: str


@dataclass(frozen=True, slots=True)
class PairingResult:
    """Pairs in the order of the images, and the files without a partner."""

    pairs: Sequence[Pair]
    image_suffix: str
    label_suffix: str
    without_label: Sequence[str]
    without_image: Sequence[str]

    def __str__(self) -> str:
        named = [
            f"{kind}: stem + {suffix}"
            for kind, suffix in (("images", self.image_suffix), ("labels", self.label_suffix))
            if suffix
        ]
        return ", ".join([*(named or ["labels: the same stem"]), f"{len(self.pairs)} pairs"])


def match_names(
    images: Sequence[str],
    labels: Sequence[str],
    image_suffix: str | None = None,
    label_suffix: str | None = None,
) -> PairingResult:
    """Pair images and labels.

    Args:
        images: Paths of the images relative to their folder, separated by `/`.
        labels: Paths of the labels relative to their folder.
        image_suffix: Suffix of the image stems; names without it are skipped. None detects it.
        label_suffix: Suffix of the label stems.

    Raises:
        DrnError: No pairs, several suffixes that fit equally well, or two files with the same name
            apart from their format.
    """
    image_names = _Names.of(path for path in images if _has(path, image_suffix or ""))
    label_names = _Names.of(path for path in labels if _has(path, label_suffix or ""))
    for kind, suffix, names in (
        ("image", image_suffix, image_names), ("label", label_suffix, label_names)
    ):  # fmt: skip
        if not names.paths:
            raise DrnError(
                f"--{kind}-suffix {suffix}: no {kind} name ends with it",
                "omit it to detect the suffix",
            )
    tried = {("", "")} | set(_candidates(image_names, label_names))
    tried = {
        (image_suffix if image_suffix is not None else first,
         label_suffix if label_suffix is not None else second)
        for first, second in tried
    }  # fmt: skip
    found = {suffixes: _pair(image_names, label_names, suffixes) for suffixes in tried}
    guessed = image_suffix is None and label_suffix is None
    most = min(len(image_names.paths), len(label_names.paths)) if guessed else 0
    chosen = _choose(found, least=(most + 1) // 2)
    if chosen is None:
        raise DrnError(
            "no label name matches an image name: "
            f"images {few_of(image_names.paths, 3)}; labels {few_of(label_names.paths, 3)}",
            "name labels like their images, apart from one suffix that all labels have",
        )
    for names, suffix in zip((image_names, label_names), chosen, strict=True):
        first: dict[str, str] = {}
        for path in names.paths:
            other = first.setdefault(_key(path, suffix), path) if _has(path, suffix) else path
            if other != path:
                raise DrnError(
                    f"{path}: has the same name as {other} apart from the format",
                    "remove one of them",
                )
    pairs = found[chosen]
    paired_labels = set(pairs.values())
    return PairingResult(
        [Pair(_key(image, chosen[0]), image, label) for image, label in pairs.items()],
        *chosen,
        [image for image in image_names.paths if image not in pairs],
        [label for label in label_names.paths if label not in paired_labels],
    )


@dataclass(frozen=True, slots=True)
class _Names:
    """Sorted paths, and their distinct stems without folders, sorted."""

    paths: list[str]
    stems: list[str]

    @classmethod
    def of(cls, paths: Iterable[str]) -> "_Names":
        ordered = sorted(paths)
        return cls(ordered, sorted({_stem(path) for path in ordered}))

    def sample(self) -> list[str]:
        return self.stems[:: max(1, len(self.stems) // SAMPLED)]


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _has(path: str, suffix: str) -> bool:
    """Return whether a stem ends with a suffix and is longer than it."""
    return _stem(path).endswith(suffix) and _stem(path) != suffix


def _key(path: str, suffix: str) -> str:
    """Return a path without its format and without the suffix of its stem."""
    return str(PurePosixPath(path).with_suffix("")).removesuffix(suffix)


def _candidates(image_names: _Names, label_names: _Names) -> Iterator[Suffixes]:
    """Guess suffixes from a sample of names; yield the most frequent guesses."""
    votes: Counter[Suffixes] = Counter()
    known = set(label_names.stems)
    for stem in image_names.sample():
        votes.update({(suffix, "") for suffix in _endings(stem, known)})
        votes.update(_from_neighbors(stem, label_names.stems))
    known = set(image_names.stems)
    for stem in label_names.sample():
        votes.update({("", suffix) for suffix in _endings(stem, known)})
    return (suffixes for suffixes, _ in votes.most_common(TRIED))


def _endings(stem: str, known: set[str]) -> Iterator[str]:
    """Yield the rest of a stem after each known stem that is a prefix of it."""
    for length in range(1, len(stem)):
        if stem[:length] in known and _can_split(stem, length):
            yield stem[length:]


def _can_split(stem: str, at: int) -> bool:
    """Return whether a suffix may begin here: `10` is not the stem `1` with the suffix `0`."""
    return not stem[at : at + 1].isdigit() or not stem[at - 1 : at].isdigit()


def _from_neighbors(stem: str, others: list[str]) -> set[Suffixes]:
    """Guess the suffixes of a stem and of the stems that share the longest prefix with it."""
    at = bisect_left(others, stem)
    nearby = [*reversed(others[max(0, at - NEIGHBORS) : at]), *others[at : at + NEIGHBORS]]
    shared = {other: len(commonprefix([stem, other])) for other in nearby}  # noqa: RUF071
    longest = max(shared.values(), default=0)
    found = set()
    for other in (other for other, length in shared.items() if 0 < length == longest):
        # `x_leftImg8bit` and `x_labels` share `x_l`: the suffixes may begin at the separator.
        separator = max(stem.rfind(sign, 0, longest) for sign in SEPARATORS)
        for cut in {longest, separator} - {0, -1}:
            if _can_split(stem, cut) and _can_split(other, cut):
                found.add((stem[cut:], other[cut:]))
    return found


def _pair(image_names: _Names, label_names: _Names, suffixes: Suffixes) -> dict[str, str]:
    """Map images to labels, given the suffixes of their names."""
    images = {_key(p, suffixes[0]): p for p in image_names.paths if _has(p, suffixes[0])}
    labels = {_key(p, suffixes[1]): p for p in label_names.paths if _has(p, suffixes[1])}
    pairs = {image: labels[key] for key, image in images.items() if key in labels}
    image_keys, label_keys = _unique_names(images), _unique_names(labels)
    for name, key in image_keys.items():
        if name in label_keys and images[key] not in pairs:
            pairs[images[key]] = labels[label_keys[name]]
    return {image: pairs[image] for image in image_names.paths if image in pairs}


def _unique_names(keys: Iterable[str]) -> dict[str, str]:
    """Map each name without folders to its key, if no other key has this name."""
    names = [(PurePosixPath(key).name, key) for key in keys]
    counts = Counter(name for name, _ in names)
    return {name: key for name, key in names if counts[name] == 1}


def _choose(found: Mapping[Suffixes, Mapping[str, str]], least: int) -> Suffixes | None:
    """Return the suffixes with the most pairs; None if below `least` or without pairs.

    No suffixes at all are preferred to others with as many pairs.

    Raises:
        DrnError: Several suffixes have the same number of pairs, but different pairs.
    """
    score = max(len(pairs) for pairs in found.values())
    if not score or score < least:
        return None
    best = sorted((e for e in found if len(found[e]) == score), key=_rank)
    if best[0] == ("", ""):
        return best[0]
    different = {tuple(found[suffixes].items()): suffixes for suffixes in reversed(best)}
    if len(different) > 1:
        part = 1 if len({suffixes[1] for suffixes in different.values()}) > 1 else 0
        kind = ("image", "label")[part]
        names = sorted({suffixes[part] or "''" for suffixes in different.values()})
        raise DrnError(
            f"ambiguous {kind} suffix: {' or '.join(names)}, each gives {score} pairs",
            f"choose one: --{kind}-suffix {names[0]}",
        )
    return best[0]


def _rank(suffixes: Suffixes) -> tuple[int, int, int, Suffixes]:
    """Sort key: fewest suffixes first, then those that begin with a separator, then short ones."""
    given = sum(suffix != "" for suffix in suffixes)
    odd = sum(suffix != "" and suffix[0] not in SEPARATORS for suffix in suffixes)
    return (given, odd, len("".join(suffixes)), suffixes)
