"""Read the ground truth of the validation images: Kaggle's CSV, a list, or the devkit's numbers."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from drn_cli.data.prepare.imagenet.boxes import read_solution
from drn_cli.data.prepare.imagenet.images import is_wnid
from drn_cli.data.prepare.imagenet.names import Synset, read_synsets
from drn_cli.data.prepare.imagenet.sources import DEVKIT, SOLUTION, VAL_IMAGES, ImageNetSources
from drn_cli.data.prepare.imagenet.tar import read_members
from drn_cli.errors import DrnError
from drn_cli.files import read_text

DEVKIT_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
HINT = f"put {SOLUTION} or {DEVKIT} beside it, or name a file with --truth"

Truth = Mapping[str, str]  # class (WNID) of each image, by its name without suffix


def class_of(name: str, truth: Truth, where: str) -> str:
    """Return the class of a validation image; raises DrnError if the ground truth lacks it."""
    wnid = truth.get(PurePosixPath(name).stem)
    if wnid is None:
        raise DrnError(f"{where}: {name}: class is missing in the ground truth")
    return wnid


def read_truth(sources: ImageNetSources) -> Truth:
    """Read the ground truth of the validation images.

    Raises:
        DrnError: It is missing or broken, or has class numbers and meta.mat is missing.
    """
    if sources.solution is not None:
        return {name: boxes[0].wnid for name, boxes in read_solution(sources.solution).items()}
    if sources.truth is not None:
        text = read_text(sources.truth)
        return _parse(text, str(sources.truth), lambda: read_synsets(sources))
    if sources.devkit is not None:
        for name, data in read_members(sources.devkit, lambda name: name.endswith(DEVKIT_TRUTH)):
            where = f"{sources.devkit}: {name}"
            return _parse(data.decode(errors="replace"), where, lambda: read_synsets(sources))
        raise DrnError(f"{sources.devkit}: contains no {DEVKIT_TRUTH}")
    raise DrnError(f"{sources.val}: no ground truth found for these images", HINT)


def truth_file(sources: ImageNetSources) -> Path | None:
    """Return the file that `read_truth` reads."""
    return sources.solution or sources.truth or sources.devkit


def _parse(text: str, where: str, synsets: Callable[[], list[Synset]]) -> Truth:
    """Parse lines of the form `WNID`, `NAME WNID`, or a class number of the devkit.

    Lines without a name are for ILSVRC2012_val_00000001 and so on.
    """
    lines = [(at, line.split()) for at, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DrnError(f"{where}: is empty")
    first = lines[0][1]
    wnids = {str(synset.number): synset.wnid for synset in synsets()} if first[0].isdigit() else {}
    truth: dict[str, str] = {}
    for number, (at, words) in enumerate(lines, start=1):
        name = f"{VAL_IMAGES}{number:08d}" if len(words) == 1 else PurePosixPath(words[0]).stem
        wnid = wnids.get(words[-1], words[-1])
        if len(words) > 2 or len(words) != len(first) or not is_wnid(wnid):
            line = " ".join(words)[:60]
            error = f"`{line}` is neither a WNID nor an image and its WNID"
            error += ", in the format of the first line"
            if wnids and len(words) == 1:
                error = f"{line} is not a class number of meta.mat"
            elif len(words) == 2 and words[1].isdigit():
                error = f"`{line}`: a class number after a name is ambiguous; use the WNID"
            raise DrnError(f"{where}:{at}: {error}")
        if name in truth:
            raise DrnError(f"{where}:{at}: duplicate entry for {name}")
        truth[name] = wnid
    return truth
