"""Read the names of the ImageNet classes from Kaggle's list or the devkit's meta.mat."""

import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from drn_cli.data.prepare.imagenet.images import is_wnid
from drn_cli.data.prepare.imagenet.sources import DEVKIT, META, SOLUTION, ImageNetSources
from drn_cli.data.prepare.imagenet.tar import LARGEST, read_members
from drn_cli.errors import DrnError
from drn_cli.files import read_bytes, read_text


@dataclass(frozen=True, slots=True)
class Synset:
    """A class in the devkit."""

    number: int  # ILSVRC2012_ID, from 1; not an index in any sorted order
    wnid: str  # WordNet id, which is the name of the class folder
    words: str  # readable name


def names_file(sources: ImageNetSources) -> Path | None:
    """Return the file that `read_names` reads, if there is one."""
    if sources.synsets is not None:
        return sources.synsets
    # Names are optional, so a missing scipy is not an error.
    return (sources.meta or sources.devkit) if find_spec("scipy") else None


def read_names(sources: ImageNetSources) -> Mapping[str, str]:
    """Read the class names of the source, by WNID; empty if it has none.

    Raises:
        DrnError: The file of the names is broken.
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
            raise DrnError(f"{path}:{number}: expected a WNID and a name, got `{line[:60]}`")
        if wnid:
            names[wnid] = name.strip()
    return names


def read_synsets(sources: ImageNetSources) -> list[Synset]:
    """Read the classes from meta.mat, unpacked or in the archive of the devkit.

    Raises:
        DrnError: There is no meta.mat, it is broken, or scipy is not installed.
    """
    if sources.meta is not None:
        return _parse(read_bytes(sources.meta, LARGEST), str(sources.meta))
    if sources.devkit is None:
        raise DrnError(
            f"{sources.truth}: contains class numbers, which need {META} of the devkit",
            f"put {DEVKIT} or {META} beside it, or use {SOLUTION}",
        )
    for name, data in read_members(sources.devkit, lambda name: name.endswith(f"data/{META}")):
        return _parse(data, f"{sources.devkit}: {name}")
    raise DrnError(f"{sources.devkit}: contains no data/{META}")


def _parse(data: bytes, where: str) -> list[Synset]:
    """Read the struct array `synsets`; only synsets without children are classes."""
    try:
        loadmat = importlib.import_module("scipy.io").loadmat  # scipy is an optional dependency
    except ImportError as error:
        raise DrnError(
            f"{where}: reading a MATLAB file needs scipy, which is not installed",
            f"pip install 'drn-cli[imagenet]', or use {SOLUTION}, which needs no package",
        ) from error
    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"].reshape(-1)
        return [
            Synset(int(each["ILSVRC2012_ID"]), str(each["WNID"]), str(each["words"]))
            for each in synsets
            if int(each["num_children"]) == 0
        ]
    except Exception as error:  # scipy raises errors of any type for a broken file
        raise DrnError(f"{where}: cannot be read as {META} of the devkit: {error}") from error
