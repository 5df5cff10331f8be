"""What a data folder of ImageNet holds so far; it grows over hours, and survives an interrupt.

While it is made, `unfinished.json` says how far it is. `info.json` is written at the very end.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drn_cli.data.folders import IMAGENET
from drn_cli.data.prepare.common import INSIDE
from drn_cli.data.prepare.imagenet.images import Corrupt, is_image, is_wnid
from drn_cli.errors import DrnError
from drn_cli.files import read_json, write_json, write_text

DATASET = "imagenet"
SPLITS = ("train", "val")
INFO, UNFINISHED = "info.json", "unfinished.json"
CORRUPT, BOX_TABLE = "corrupt.txt", "val_boxes.csv"
LEFTOVER = ".*.tmp"  # what drn_cli.files calls a file until it is whole


@dataclass(slots=True)
class State:
    """What is there, and from what.

    Attributes:
        made_from: Fingerprint of the source of each part: a split, `boxes`, or `names`.
        counts: Images of each split that is complete.
        corrupt: Files of each complete split that were left out.
        boxes: Number of boxes in the table of boxes, or None if there is no table.
        names: What people call the classes, by WNID.
        finished: Whether info.json says all this.
    """

    made_from: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    corrupt: dict[str, int] = field(default_factory=dict)
    boxes: int | None = None
    names: dict[str, str] = field(default_factory=dict)
    finished: bool = False


def read_state(out: Path) -> State:
    """Find out what an earlier run left in the data folder.

    Raises:
        DrnError: It holds something else, which is not ours to touch.
    """
    if not out.exists():
        return State()
    for name in (INFO, UNFINISHED):
        if (out / name).is_file():
            state = _parse(read_json(out / name), finished=name == INFO)
            if state is None:
                break
            return _what_is_still_there(out, state)
    else:
        if out.is_dir() and all(
            path.name == INSIDE or path.match(LEFTOVER) for path in out.iterdir()
        ):
            return State()
    raise DrnError(
        f"{out}: holds something else than ImageNet as this command makes it",
        "remove it or choose another folder with --out",
    )


def _parse(found: Any, *, finished: bool) -> State | None:
    if not isinstance(found, dict) or found.get("dataset") != DATASET:
        return None
    try:
        return State(
            made_from={str(part): str(mark) for part, mark in found["made_from"].items()},
            counts={split: int(found["counts"][split]) for split in found["counts"]},
            corrupt={split: int(found["corrupt"][split]) for split in found["counts"]},
            boxes=None if found["boxes"] is None else int(found["boxes"]),
            names=dict(zip(found["folders"], found["classes"], strict=True)),
            finished=finished,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _what_is_still_there(out: Path, state: State) -> State:
    """Forget what somebody removed since, so that it is made again."""
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
    return state


def begin(out: Path, state: State) -> None:
    """Mark the folder as one that is being made."""
    write_unfinished(out, state)
    (out / INFO).unlink(missing_ok=True)
    # A process that was killed could not tidy up.
    for place in (".", *(f"{split}/*" for split in SPLITS)):
        for leftover in out.glob(f"{place}/{LEFTOVER}"):
            leftover.unlink()


def write_unfinished(out: Path, state: State) -> None:
    write_json(out / UNFINISHED, {"dataset": DATASET, **_as_json(state)})


def finish(out: Path, state: State) -> None:
    """Write info.json: the folder is complete."""
    found = sorted({wnid for split in SPLITS for wnid in classes_of(out, split)})
    state.names = {wnid: state.names.get(wnid, wnid) for wnid in found}
    statistics = {"mean": IMAGENET.mean, "std": IMAGENET.std}
    write_json(out / INFO, {"dataset": DATASET, **statistics, **_as_json(state)})
    (out / UNFINISHED).unlink(missing_ok=True)
    state.finished = True


def _as_json(state: State) -> dict[str, Any]:
    fields = asdict(state)
    del fields["finished"]
    names = fields.pop("names")
    return {"folders": list(names), "classes": list(names.values()), **fields}


def classes_of(out: Path, split: str) -> list[str]:
    """List the class folders of a split that is there."""
    with suppress(FileNotFoundError):
        return sorted(path.name for path in (out / split).iterdir() if is_wnid(path.name))
    return []


def val_images(out: Path) -> dict[str, str]:
    """Give the path below the data folder of each validation image, by name without suffix."""
    return {
        path.stem: path.relative_to(out).as_posix()
        for wnid in classes_of(out, "val")
        for path in (out / "val" / wnid).iterdir()
        if is_image(path.name)
    }


def write_corrupt(out: Path, split: str, corrupt: Sequence[Corrupt]) -> None:
    """List what was left out of a split: split, name and fault, with tabs between them."""
    lines = [line for line in read_corrupt(out) if not line.startswith(f"{split}\t")]
    for each in corrupt:
        # A name may hold any byte; the file is to have one line for each.
        words = (split, each.name, each.fault)
        lines.append("\t".join(word.encode("unicode_escape").decode() for word in words))
    if lines:
        write_text(out / CORRUPT, "".join(f"{line}\n" for line in lines))
    else:
        (out / CORRUPT).unlink(missing_ok=True)


def read_corrupt(out: Path) -> list[str]:
    """Read the lines that `write_corrupt` wrote."""
    try:
        return (out / CORRUPT).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DrnError(f"{out / CORRUPT}: cannot be read: {error}") from error


def with_names(state: State, names: Mapping[str, str], otherwise: Mapping[str, str]) -> None:
    """Take over names: those of the source, or those it had before, or those we know."""
    state.names = {**otherwise, **state.names, **names}
