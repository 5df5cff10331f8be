"""Progress of an ImageNet data folder, which is written over hours and resumed when interrupted.

`unfinished.json` records it; at the end `info.json` replaces that file.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drn_cli.data.folders import IMAGENET
from drn_cli.data.prepare.common import LOCK_INSIDE
from drn_cli.data.prepare.imagenet.images import CorruptImage, is_image, is_wnid
from drn_cli.errors import DrnError
from drn_cli.files import read_json, write_json, write_text

DATASET = "imagenet"
SPLITS = ("train", "val")
INFO, UNFINISHED = "info.json", "unfinished.json"
CORRUPT, BOX_TABLE = "corrupt.txt", "val_boxes.csv"
LEFTOVER = ".*.tmp"  # temporary names of drn_cli.files


@dataclass(slots=True)
class PrepareState:
    """Contents of a data folder and their sources."""

    # Fingerprint of the source of each split, of `boxes` and of `names`
    made_from: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # number of images of each complete split
    # Number of files left out of each complete split
    corrupt: dict[str, int] = field(default_factory=dict)
    boxes: int | None = None  # number of boxes in the table of boxes; None without a table
    names: dict[str, str] = field(default_factory=dict)  # class names by WNID
    finished: bool = False  # whether info.json records all this


def read_state(out: Path) -> PrepareState:
    """Read the state that earlier runs left in a data folder.

    Raises:
        DrnError: The folder has other contents.
    """
    if not out.exists():
        return PrepareState()
    for name in (INFO, UNFINISHED):
        if (out / name).is_file():
            state = _parse(read_json(out / name), finished=name == INFO)
            if state is None:
                break
            _forget_removed(out, state)
            return state
    else:
        if out.is_dir() and all(
            path.name == LOCK_INSIDE or path.match(LEFTOVER) for path in out.iterdir()
        ):
            return PrepareState()
    raise DrnError(
        f"{out}: contains something other than an ImageNet data folder",
        "remove it or choose another folder with --out",
    )


def _parse(found: Any, *, finished: bool) -> PrepareState | None:
    if not isinstance(found, dict) or found.get("dataset") != DATASET:
        return None
    try:
        return PrepareState(
            made_from={str(part): str(mark) for part, mark in found["made_from"].items()},
            counts={split: int(found["counts"][split]) for split in found["counts"]},
            corrupt={split: int(found["corrupt"][split]) for split in found["counts"]},
            boxes=None if found["boxes"] is None else int(found["boxes"]),
            names=dict(zip(found["folders"], found["classes"], strict=True)),
            finished=finished,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _forget_removed(out: Path, state: PrepareState) -> None:
    """Drop splits and boxes that were removed from the folder, so that they are made again."""
    for split in SPLITS:
        if split in state.made_from and not (out / split).is_dir():
            del state.made_from[split]
            state.counts.pop(split, None)
            state.corrupt.pop(split, None)
            state.finished = False
    if state.boxes is not None and not (out / BOX_TABLE).is_file():
        state.boxes = None
        state.made_from.pop("boxes", None)
        state.finished = False


def begin(out: Path, state: PrepareState) -> None:
    """Mark a data folder as unfinished and remove temporary files of a killed run."""
    write_unfinished(out, state)
    (out / INFO).unlink(missing_ok=True)
    for folder in (".", *(f"{split}/*" for split in SPLITS)):
        for leftover in out.glob(f"{folder}/{LEFTOVER}"):
            leftover.unlink()


def write_unfinished(out: Path, state: PrepareState) -> None:
    write_json(out / UNFINISHED, {"dataset": DATASET, **_as_json(state)})


def finish(out: Path, state: PrepareState) -> None:
    """Write info.json, which marks a data folder as complete."""
    found = sorted({wnid for split in SPLITS for wnid in classes_of(out, split)})
    state.names = {wnid: state.names.get(wnid, wnid) for wnid in found}
    statistics = {"mean": IMAGENET.mean, "std": IMAGENET.std}
    write_json(out / INFO, {"dataset": DATASET, **statistics, **_as_json(state)})
    (out / UNFINISHED).unlink(missing_ok=True)
    state.finished = True


def _as_json(state: PrepareState) -> dict[str, Any]:
    fields = asdict(state)
    del fields["finished"]
    names = fields.pop("names")
    return {"folders": list(names), "classes": list(names.values()), **fields}


def classes_of(out: Path, split: str) -> list[str]:
    """List the class folders of a split; empty if the split does not exist."""
    with suppress(FileNotFoundError):
        return sorted(path.name for path in (out / split).iterdir() if is_wnid(path.name))
    return []


def val_images(out: Path) -> dict[str, str]:
    """Map names of validation images without suffix to their paths in the data folder."""
    return {
        path.stem: path.relative_to(out).as_posix()
        for wnid in classes_of(out, "val")
        for path in (out / "val" / wnid).iterdir()
        if is_image(path.name)
    }


def write_corrupt(out: Path, split: str, corrupt: Sequence[CorruptImage]) -> None:
    """Add the files left out of a split to corrupt.txt: split, name and error, tab-separated."""
    lines = [line for line in read_corrupt(out) if not line.startswith(f"{split}\t")]
    for image in corrupt:
        # A name may contain any byte, including line breaks.
        words = (split, image.name, image.error)
        lines.append("\t".join(word.encode("unicode_escape").decode() for word in words))
    if lines:
        write_text(out / CORRUPT, "".join(f"{line}\n" for line in lines))
    else:
        (out / CORRUPT).unlink(missing_ok=True)


def read_corrupt(out: Path) -> list[str]:
    """Read the lines of corrupt.txt; empty if the file does not exist."""
    try:
        return (out / CORRUPT).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DrnError(f"{out / CORRUPT}: cannot be read: {error}") from error
