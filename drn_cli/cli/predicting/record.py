"""What made each prediction, written beside them: maps of two networks should not pass for one's.

`predictions.json` in the output folder has a table of what made maps, and for each image the row of
that table. It is written before the first map. Maps that are being made again by another network
belong to an unknown one until all are done, because a run may be killed in between. Runs that share
a folder change it in turns, each under a lock of its own: the folder's is shared until a run ends.
"""

import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

from drn_cli.errors import DrnError
from drn_cli.files import hidden_beside, read_json, sha256, write_json
from drn_cli.version import __version__

if TYPE_CHECKING:
    from drn_cli.inference.normalization import Normalization
    from drn_cli.inference.opening import OpenedNetwork
    from drn_cli.inference.outputs import Kind

RECORD = "predictions.json"
INSTEAD = "remove it, or choose another --out"  # of a record that cannot be used

Row = dict[str, Any]  # what made the maps of some images, and `files`, the kinds of them

# What decides what a map shows, and what messages call it.
DECIDES = {
    "weights_sha256": "weights",
    "mean": "mean",
    "std": "std",
    "scales": "scales",
    "flip": "flip",
    "view": "view",
}
UNKNOWN: Row = {"network": None}


def provenance_of(
    network: "OpenedNetwork", normalization: "Normalization", view: Mapping[str, Any]
) -> Row:
    """Describe what makes predictions.

    Args:
        network: What predicts.
        normalization: What its inputs are normalized with.
        view: How it looks at images.
    """
    return {
        "drn": __version__,
        "network": network.arch,
        "width": network.architecture.width,
        "weights": str(network.path),
        "weights_sha256": sha256(network.path),
        "verified": network.verified,
        **normalization.to_json(),
        **view,
    }


def differences(row: Row, maker: Row) -> list[str]:
    """Name what decides in another way than a maker's; older records do not hold everything."""
    if row.get("network") is None:
        return ["weights"]
    keys = [key for key in DECIDES if key in maker and row.get(key, maker[key]) != maker[key]]
    return [DECIDES[key] for key in keys]


def begin_record(table: Path, maker: Row, earlier_rows: int, *, resume: bool) -> None:
    """Record what makes a whole table, or check that the same continues it.

    A table of something else stays until the new one is whole. Until then nothing is recorded to
    have made it: a run that is killed in between must not pass its rows off as new ones.

    Args:
        table: The table.
        maker: What makes its rows.
        earlier_rows: Number of rows of an earlier run, of any columns, that stay until then.
        resume: Whether the table that is there is continued, and not replaced.

    Raises:
        DrnError: These were made by another network, in another way, or by what is unknown.
    """
    path = hidden_beside(table, "json")
    if earlier_rows:
        instead = "choose another --csv, or leave out --skip-existing to make all of them again"
        if not path.is_file():
            rows = f"{earlier_rows:,} rows were made earlier"
            problem = f"{rows}, and {path}, which says by what, is missing"
            raise DrnError(f"{table}: {problem}", instead)
        before = _object(path, instead)
        if before.get("network") is None:
            problem = (
                "a run that replaced the predictions did not finish; what made them is unknown"
            )
            raise DrnError(f"{table}: {problem}", instead)
        if different := differences(before, maker):
            problem = f"the predictions there were made with other {' and '.join(different)}"
            raise DrnError(f"{path}: {problem}", instead)
    replaces = not resume and table.is_file() and not _made_by(path, maker)
    write_json(path, UNKNOWN if replaces else maker)


def finish_record(table: Path, maker: Row) -> None:
    """Record what made a table that is whole."""
    write_json(hidden_beside(table, "json"), maker)


def _made_by(path: Path, maker: Row) -> bool:
    """Whether a table's record can be read and holds the same maker."""
    try:
        return not differences(_object(path), maker)
    except DrnError:
        return False


@contextmanager
def recording(
    out: Path,
    maker: Row,
    names: Sequence[str],
    kinds: "Sequence[Kind]",
    *,
    resume: bool,
    force: bool,
) -> "Iterator[MapRecord]":
    """Share an output folder and its record with other runs of the same network.

    For one process of a job, which `finish`es the record for all.

    Args:
        out: The output folder.
        maker: What makes the maps.
        names: The images whose maps are to be made, as their files are called.
        kinds: Which files are written of each.
        resume: Whether files that are there stay, as with `--skip-existing`.
        force: Whether recorded files that would be in the way are deleted.

    Raises:
        DrnError: Files that something else made would remain, or the record cannot be read.
    """
    from drn_cli.inference.outputs import output_directory

    with ExitStack() as stack:
        with _changing(out):  # also what others write: who comes later finds this run's rows
            alone = stack.enter_context(output_directory(out))
            record = MapRecord(out, maker, kinds, alone=alone)
            record.begin(names, resume=resume, force=force)
        yield record


@contextmanager
def _changing(out: Path) -> Iterator[None]:
    """Wait until no other run reads, changes and writes the record of a folder."""
    from drn_cli.inference.outputs import open_lock_in

    with open_lock_in(out, hidden_beside(out / RECORD, "lock").name) as lock:
        with suppress(OSError):  # there are no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class MapRecord:
    """The record of an output folder, while maps are written there; see `recording`.

    Args:
        out, maker, kinds: See `recording`.
        alone: Whether no other run writes there: recorded files that are missing are not coming.
    """

    def __init__(self, out: Path, maker: Row, kinds: "Sequence[Kind]", *, alone: bool) -> None:
        self.out, self.path, self.maker, self.kinds = out, out / RECORD, maker, kinds
        self._alone = alone
        self._rows: list[Row] = []
        self._made: dict[tuple[bool, tuple[str, ...]], Row] = {}
        self._different: dict[int, list[str]] = {}
        self._replaced: dict[str, Row] = {}

    def begin(self, names: Sequence[str], *, resume: bool, force: bool) -> None:
        """Check what is there, and record what will be; arguments and errors as in `recording`."""
        from drn_cli.inference.outputs import refuse_symlinks

        before = _read(self.out)
        if resume:
            self._check_unrecorded(before, names)
        left = self._left(before, set(names), resume)
        if left and not (force and self._alone):
            self._refuse(before, left)
        for name, kinds_left in left.items():
            for path in _files(self.out, name, kinds_left):
                refuse_symlinks(self.out, path)
                path.unlink(missing_ok=True)
            kept = [kind for kind in before[name]["files"] if kind not in kinds_left]
            before[name] = before[name] | {"files": kept}
        before = {name: row for name, row in before.items() if row["files"]}
        self._replaced = {
            name: before[name] for name in names if name in before and self._differs(before[name])
        }
        _write(self.path, before | {name: self._row(before.get(name)) for name in names})

    def finish(self, failed: Iterable[str]) -> list[str]:
        """Record what made the maps that were made again.

        Args:
            failed: Images of which no maps could be made.

        Returns:
            Those of them that keep the maps of something else.
        """
        lost = set(failed) & self._replaced.keys()
        if self._replaced:
            new = {name: self._row(None) for name in self._replaced}
            kept = {name: self._replaced[name] for name in lost}
            with _changing(self.out):
                _write(self.path, _read(self.out) | new | kept)
        return sorted(lost)

    def _row(self, before: Row | None) -> Row:
        """Return the row of an image that is predicted, given the one that it had."""
        other = before is not None and bool(self._differs(before))
        files = tuple(dict.fromkeys((*(before or {}).get("files", ()), *self.kinds)))
        made = self._made.setdefault((other, files), {})
        made.update((UNKNOWN if other else self.maker) | {"files": list(files)})
        return made

    def _differs(self, row: Row) -> list[str]:
        """Return the differences of a row, which many images share."""
        if id(row) not in self._different:
            self._different[id(row)] = differences(row, self.maker)
            self._rows.append(row)  # so that its id stays its own
        return self._different[id(row)]

    def _left(self, before: dict[str, Row], wanted: set[str], resume: bool) -> dict[str, list[str]]:
        """Find the kinds of recorded files that would remain although something else made them."""
        left = {}
        for name, row in before.items():
            different = self._differs(row)
            # Without --skip-existing, other sizes for some images are as good as for all.
            if not different or (name not in wanted and not resume and "weights" not in different):
                continue
            redone = name in wanted and (not resume or row.get("network") is None) and self._alone
            stays = [kind for kind in row["files"] if not (redone and kind in self.kinds)]
            if not self._alone or any(path.exists() for path in _files(self.out, name, stays)):
                left[name] = stays
        return left

    def _refuse(self, before: dict[str, Row], left: dict[str, list[str]]) -> None:
        name, kinds = next(iter(left.items()))
        different = " and ".join(self._differs(before[name]))
        if not self._alone:
            raise DrnError(
                f"{self.out}: another process predicts into it, and {self.path} has {name} with "
                f"other {different}",
                "wait until it has ended, or choose another --out",
            )
        images = "one image" if len(left) == 1 else f"{len(left)} images"
        raise DrnError(
            f"{_files(self.out, name, kinds)[0]}: was made with other {different}; such files of "
            f"{images}, recorded in {self.path}, would remain beside the new ones",
            "predict all their images without --skip-existing, choose another --out, or delete "
            "these files with --force",
        )

    def _check_unrecorded(self, before: dict[str, Row], names: Sequence[str]) -> None:
        kinds = [kind for kind in self.kinds if (self.out / kind).is_dir()]
        for name in names:
            if name not in before:
                for path in _files(self.out, name, kinds):
                    if path.exists():
                        raise DrnError(
                            f"{path}: is not in {self.path}, so that what made it is unknown",
                            "leave out --skip-existing to make it again, or choose another --out",
                        )


def unfinished(out: Path) -> Callable[[str], bool]:
    """Return a test whether an image's maps, though there, may be another network's."""
    names = {name for name, row in _read(out).items() if row.get("network") is None}
    return names.__contains__


def _files(out: Path, name: str, kinds: Iterable[str]) -> list[Path]:
    from drn_cli.inference.outputs import output_path

    return [output_path(out, cast("Kind", kind), name) for kind in kinds]


def _read(out: Path) -> dict[str, Row]:
    """Read the row of each image; images of one row share it."""
    path = out / RECORD
    if not path.is_file():
        return {}
    found = _object(path)
    if "images" not in found:
        return _read_older(out, found)
    table, images = found.get("made_by"), found["images"]
    if (
        isinstance(table, list)
        and isinstance(images, dict)
        and all(isinstance(row, dict) and _are_kinds(row.get("files")) for row in table)
        and all(type(number) is int and 0 <= number < len(table) for number in images.values())
        and all(map(_is_below, images))
    ):
        return {name: table[number] for name, number in images.items()}
    raise _damaged(path)


def _read_older(out: Path, found: Row) -> dict[str, Row]:
    """Read a record of one network for all maps, as drn wrote it up to 0.1.0."""
    from drn_cli.inference.outputs import ENDINGS

    images: dict[str, list[str]] = {}
    for kind, ending in ENDINGS.items():
        for path in sorted((out / kind).rglob(f"*{ending}")):
            name = str(path.relative_to(out / kind)).removesuffix(ending)
            if not path.name.startswith("."):
                images.setdefault(name, []).append(kind)
    return {name: found | {"files": kinds} for name, kinds in images.items()}


def _is_below(name: str) -> bool:
    """Whether a recorded name stays below the folder that it is joined to."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _are_kinds(value: Any) -> bool:
    from drn_cli.inference.outputs import KINDS

    return isinstance(value, list) and set(map(str, value)) <= set(KINDS)


def _write(path: Path, images: Mapping[str, Row]) -> None:
    rows: dict[int, int] = {}
    table: list[Row] = []
    numbers = {}
    for name, row in images.items():
        if id(row) not in rows:
            if row not in table:
                table.append(row)
            rows[id(row)] = table.index(row)
        numbers[name] = rows[id(row)]
    write_json(path, {"made_by": table, "images": numbers})


def _object(path: Path, instead: str = INSTEAD) -> Row:
    try:
        found = read_json(path)
    except DrnError as error:
        raise DrnError(error.message, error.hint or instead) from error
    if not isinstance(found, dict):
        raise _damaged(path, instead)
    return found


def _damaged(path: Path, instead: str = INSTEAD) -> DrnError:
    return DrnError(f"{path}: is no record of predictions", instead)
