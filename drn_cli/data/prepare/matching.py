"""Which label belongs to which image, by their names: their suffixes are found by looking.

A label belongs to the image with the same folder and stem once a suffix common to all labels,
`_mask` for instance, and one common to all images are removed. Where folders differ, a stem that
no other image and no other label has is enough.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

from drn_cli.errors import DrnError

SAMPLED = 50  # names that are looked at for suffixes
TRIED = 30  # suffixes, the most frequent ones, that are tried on all names
NEIGHBOURS = 20  # names that are looked at beside a name
SEPARATORS = "_-. "

Suffixes = tuple[str, str]  # of images and of labels


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its label, as paths below their folders.

    Attributes:
        stem: The image's path without suffix and format, which tells images apart.
    """

    stem: str
    image: str
    label: str


@dataclass(frozen=True, slots=True)
class PairingResult:
    """All pairs, in the order of the images, and what belongs to nothing."""

    matches: Sequence[Pair]
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
        return ", ".join([*(named or ["labels: the same stem"]), f"{len(self.matches)} pairs"])


def match_names(
    images: Sequence[str],
    labels: Sequence[str],
    image_suffix: str | None = None,
    label_suffix: str | None = None,
) -> PairingResult:
    """Find the pairs among images and labels.

    Args:
        images: Paths of the images below their folder, with `/`.
        labels: Paths of the labels below theirs.
        image_suffix: What stems of images end with. Names without it are passed over. None means
            to find it.
        label_suffix: The same for labels.

    Raises:
        DrnError: No label belongs to an image, several suffixes fit equally well, or two files
            have the same name but for their format.
    """
    image_names = _Names.of(path for path in images if _has(path, image_suffix or ""))
    label_names = _Names.of(path for path in labels if _has(path, label_suffix or ""))
    for kind, suffix, names in (
        ("image", image_suffix, image_names), ("label", label_suffix, label_names)
    ):  # fmt: skip
        if not names.paths:
            raise DrnError(
                f"--{kind}-suffix {suffix}: ends the name of no {kind}",
                "without it the suffix is found by itself",
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
            "no label is named as an image is: "
            f"images {_few(image_names.paths)}; labels {_few(label_names.paths)}",
            "a label should be named as its image, or have a suffix that all labels have",
        )
    _refuse_doubles(image_names.paths, chosen[0])
    _refuse_doubles(label_names.paths, chosen[1])
    pairs = found[chosen]
    taken = set(pairs.values())
    return PairingResult(
        [Pair(_key(image, chosen[0]), image, label) for image, label in pairs.items()],
        *chosen,
        [image for image in image_names.paths if image not in pairs],
        [label for label in label_names.paths if label not in taken],
    )


@dataclass(frozen=True, slots=True)
class _Names:
    """Paths in order, and their stems without folders, each once, in order."""

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
    """Tell whether a stem has a suffix, and something before it."""
    return _stem(path).endswith(suffix) and _stem(path) != suffix


def _key(path: str, suffix: str) -> str:
    """Give a path without its format and without the suffix of its stem."""
    return str(PurePosixPath(path).with_suffix("")).removesuffix(suffix)


def _candidates(image_names: _Names, label_names: _Names) -> Iterator[Suffixes]:
    """Guess suffixes from some names: those that most of them suggest."""
    votes: Counter[Suffixes] = Counter()
    known = set(label_names.stems)
    for stem in image_names.sample():
        votes.update({(suffix, "") for suffix in _beyond(stem, known)})
        votes.update(_from_neighbours(stem, label_names.stems))
    known = set(image_names.stems)
    for stem in label_names.sample():
        votes.update({("", suffix) for suffix in _beyond(stem, known)})
    return (suffixes for suffixes, _ in votes.most_common(TRIED))


def _beyond(stem: str, known: set[str]) -> Iterator[str]:
    """Give what a stem has beyond each known stem that it begins with."""
    for length in range(1, len(stem)):
        if stem[:length] in known and _may_part(stem, length):
            yield stem[length:]


def _may_part(stem: str, at: int) -> bool:
    """Tell whether a suffix may begin here: `10` is no `1` that ends with `0`."""
    return not stem[at : at + 1].isdigit() or not stem[at - 1 : at].isdigit()


def _from_neighbours(stem: str, others: list[str]) -> set[Suffixes]:
    """Give the suffixes of a stem and of those that share the longest beginning with it."""
    at = bisect_left(others, stem)
    beside = [*reversed(others[max(0, at - NEIGHBOURS) : at]), *others[at : at + NEIGHBOURS]]
    shared = {other: _shared(stem, other) for other in beside}
    longest = max(shared.values(), default=0)
    found = set()
    for other in (other for other, length in shared.items() if 0 < length == longest):
        # `x_leftImg8bit` and `x_labels` share `x_l`: the suffixes may begin at the separator.
        before = max(stem.rfind(sign, 0, longest) for sign in SEPARATORS)
        for cut in {longest, before} - {0, -1}:
            if _may_part(stem, cut) and _may_part(other, cut):
                found.add((stem[cut:], other[cut:]))
    return found


def _shared(one: str, other: str) -> int:
    """Count the characters with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _pair(image_names: _Names, label_names: _Names, suffixes: Suffixes) -> dict[str, str]:
    """Give the label of each image that has one, if names end like this."""
    images = {_key(p, suffixes[0]): p for p in image_names.paths if _has(p, suffixes[0])}
    labels = {_key(p, suffixes[1]): p for p in label_names.paths if _has(p, suffixes[1])}
    pairs = {image: labels[key] for key, image in images.items() if key in labels}
    lone_images, lone_labels = _lone(images), _lone(labels)
    for name, key in lone_images.items():
        if name in lone_labels and images[key] not in pairs:
            pairs[images[key]] = labels[lone_labels[name]]
    return {image: pairs[image] for image in image_names.paths if image in pairs}


def _lone(keys: Iterable[str]) -> dict[str, str]:
    """Give the key of each name that only one key has, folders aside."""
    names = [(PurePosixPath(key).name, key) for key in keys]
    counts = Counter(name for name, _ in names)
    return {name: key for name, key in names if counts[name] == 1}


def _choose(found: Mapping[Suffixes, Mapping[str, str]], least: int) -> Suffixes | None:
    """Choose the suffixes that pair most, and at least so many; None if there are none.

    Raises:
        DrnError: Several pair as many, and not the same. No suffix at all goes before others.
    """
    score = max(len(pairs) for pairs in found.values())
    if not score or score < least:
        return None
    best = sorted((e for e in found if len(found[e]) == score), key=_oddity)
    if best[0] == ("", ""):
        return best[0]
    different = {tuple(found[suffixes].items()): suffixes for suffixes in reversed(best)}
    if len(different) > 1:
        fitting = different.values()
        part = 1 if len({suffixes[1] for suffixes in fitting}) > 1 else 0
        names = sorted({suffixes[part] or "nothing" for suffixes in fitting})
        raise DrnError(
            f"{('images', 'labels')[part]} may end with {' or '.join(names)}: "
            f"each gives {score} pairs",
            f"choose one: {('--image-suffix', '--label-suffix')[part]} {names[0]}",
        )
    return best[0]


def _oddity(suffixes: Suffixes) -> tuple[int, int, int, Suffixes]:
    """Rank suffixes: the fewest, then those that begin with a separator, then the shortest."""
    given = sum(suffix != "" for suffix in suffixes)
    odd = sum(suffix != "" and suffix[0] not in SEPARATORS for suffix in suffixes)
    return (given, odd, len("".join(suffixes)), suffixes)


def _refuse_doubles(paths: Sequence[str], suffix: str) -> None:
    first: dict[str, str] = {}
    for path in paths:
        if _has(path, suffix):
            other = first.setdefault(_key(path, suffix), path)
            if other != path:
                raise DrnError(f"{other} and {path} have the same name", "keep one of them")


def _few(paths: Sequence[str]) -> str:
    """Name a few of many."""
    return ", ".join(paths[:3]) + (" ..." if len(paths) > 3 else "")
