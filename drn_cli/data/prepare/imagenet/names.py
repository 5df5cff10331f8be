"""What people call the classes of ImageNet: Kaggle's list, the devkit's meta.mat, or our table."""

import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from drn_cli.data.prepare.imagenet.images import is_wnid
from drn_cli.data.prepare.imagenet.sources import DEVKIT, META, SOLUTION, Sources
from drn_cli.data.prepare.imagenet.tar import LARGEST, read_small
from drn_cli.errors import DrnError
from drn_cli.files import read_bytes, read_text


@dataclass(frozen=True, slots=True)
class Synset:
    """A class as the devkit knows it.

    Attributes:
        number: ILSVRC2012_ID, from 1; not the place in any sorted order.
        wnid: Its name in WordNet, by which its folder is called.
        words: What people call it.
    """

    number: int
    wnid: str
    words: str


def names_file(sources: Sources) -> Path | None:
    """Give the file that `read_names` reads, if there is one."""
    if sources.synsets is not None:
        return sources.synsets
    # Names alone are no reason to ask for another package.
    return (sources.meta or sources.devkit) if find_spec("scipy") else None


def read_names(sources: Sources) -> Mapping[str, str]:
    """Read the names that the source has for its classes, by WNID; there may be none.

    Raises:
        DrnError: The file with the names is broken.
    """
    if sources.synsets is not None:
        return _read_list(sources.synsets)
    if names_file(sources) is None:
        return {}
    return {synset.wnid: synset.words for synset in read_synsets(sources)}


def _read_list(path: Path) -> dict[str, str]:
    names = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        wnid, _, name = line.strip().partition(" ")
        if wnid and not (is_wnid(wnid) and name):
            raise DrnError(f"{path}:{number}: should be a WNID and a name, is `{line[:60]}`")
        if wnid:
            names[wnid] = name.strip()
    return names


def read_synsets(sources: Sources) -> list[Synset]:
    """Read the classes from meta.mat, in its folder or in the devkit's archive.

    Raises:
        DrnError: There is no meta.mat, it is broken, or scipy is not installed.
    """
    if sources.meta is not None:
        return _parse(read_bytes(sources.meta, LARGEST), str(sources.meta))
    if sources.devkit is None:
        raise DrnError(
            f"{sources.truth}: holds numbers, which only {META} of the devkit explains",
            f"put {DEVKIT} or {META} beside it, or use {SOLUTION}",
        )
    for name, data in read_small(sources.devkit, lambda name: name.endswith(f"data/{META}")):
        return _parse(data, f"{sources.devkit}: {name}")
    raise DrnError(f"{sources.devkit}: has no data/{META}")


def _parse(data: bytes, where: str) -> list[Synset]:
    """Read the struct array `synsets`; only those without children are classes."""
    try:
        # scipy is an extra, and is asked for only here.
        loadmat = importlib.import_module("scipy.io").loadmat
    except ImportError as error:
        raise DrnError(
            f"{where}: is a MATLAB file, and scipy, which can read it, is not installed",
            f"pip install 'drn-cli[imagenet]', or use {SOLUTION}, which needs nothing",
        ) from error
    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"].reshape(-1)
        return [
            Synset(int(each["ILSVRC2012_ID"]), str(each["WNID"]), str(each["words"]))
            for each in synsets
            if int(each["num_children"]) == 0
        ]
    except Exception as error:  # a broken file makes scipy raise whatever comes to it
        raise DrnError(f"{where}: cannot be read as the devkit's {META}: {error}") from error
