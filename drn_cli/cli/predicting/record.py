"""Manifest of predictions: which network and view each file comes from.

It keeps predictions of two networks in one folder from being mistaken for those of one.
`predictions.json` in the output folder has a table of provenances, and the row of each image. It is
written before the first map. The provenance of maps that another network replaces is unknown until
all are done, because the run may be killed in between. Runs that share a folder take turns to
change the manifest under a second lock: the lock of the folder is shared until a run ends.
"""

import fcntl
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

MANIFEST = "predictions.json"
HINT = "remove it, or choose another --out"  # hint for a manifest that cannot be used

Row = dict[str, Any]  # provenance of the maps of some images, and `files`, the kinds of maps

# Fields of the provenance that change predictions, and their names in messages.
COMPARED = {
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
    """Return the provenance of predictions.

    Args:
        network: The network.
        normalization: Normalization of its inputs.
        view: Options that change predictions (scales, flip, crops).
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


def differences(row: Row, provenance: Row) -> list[str]:
    """Name the compared fields that differ; fields that an older manifest lacks do not."""
    if row.get("network") is None:
        return ["weights"]
    return [
        name
        for key, name in COMPARED.items()
        if key in provenance and row.get(key, provenance[key]) != provenance[key]
    ]


def begin_table(table: Path, provenance: Row, earlier_rows: int, *, resume: bool) -> None:
    """Write the provenance of a CSV file, or check that it equals that of the existing rows.

    Rows of another provenance stay until the new file is complete. Until then the provenance is
    recorded as unknown, in case the run is killed.

    Args:
        table: The CSV file.
        provenance: Provenance of the new rows.
        earlier_rows: Number of existing rows.
        resume: Whether to continue the file instead of replacing it.

    Raises:
        DrnError: The provenance of the existing rows differs or is unknown.
    """
    path = hidden_beside(table, "json")
    if earlier_rows:
        hint = "choose another --csv, or leave out --skip-existing to replace all rows"
        if not path.is_file():
            problem = f"{path}, the provenance of its {earlier_rows:,} existing rows, is missing"
            raise DrnError(f"{table}: {problem}", hint)
        before = _object(path, hint)
        if before.get("network") is None:
            problem = (
                "a run that was replacing the rows did not finish, their provenance is unknown"
            )
            raise DrnError(f"{table}: {problem}", hint)
        if different := differences(before, provenance):
            problem = f"the existing rows were made with different {' and '.join(different)}"
            raise DrnError(f"{path}: {problem}", hint)
    replaces = not resume and table.is_file()
    with suppress(DrnError):  # a file that cannot be read
        replaces = replaces and bool(differences(_object(path), provenance))
    write_json(path, UNKNOWN if replaces else provenance)


def finish_table(table: Path, provenance: Row) -> None:
    """Write the provenance of a complete CSV file."""
    write_json(hidden_beside(table, "json"), provenance)


@contextmanager
def open_manifest(
    out: Path,
    provenance: Row,
    names: Sequence[str],
    kinds: "Sequence[Kind]",
    *,
    resume: bool,
    force: bool,
) -> "Iterator[Manifest]":
    """Open the manifest of an output folder, which runs of the same network may share.

    Used by one process of a job, which calls `finish` for all of them.

    Args:
        out: The output folder.
        provenance: Provenance of the new maps.
        names: Names of the images to predict, relative to the output folder and without extension.
        kinds: Kinds of files written of each image.
        resume: Whether existing files are kept (`--skip-existing`).
        force: Whether to delete files of another provenance that would remain.

    Raises:
        DrnError: Files of another provenance would remain, or the manifest cannot be read.
    """
    from drn_cli.inference.outputs import output_directory

    with ExitStack() as stack:
        with _locked(out):  # until the rows of this run are written, for runs that start later
            alone = stack.enter_context(output_directory(out))
            manifest = Manifest(out, provenance, kinds, alone=alone)
            manifest.begin(names, resume=resume, force=force)
        yield manifest


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock the manifest of a folder to read, change and write it."""
    from drn_cli.inference.outputs import open_lock_in

    with open_lock_in(out, hidden_beside(out / MANIFEST, "lock").name) as lock:
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Manifest:
    """Manifest of an output folder to which a run writes; see `open_manifest`.

    Args:
        out, provenance, kinds: See `open_manifest`.
        alone: Whether no other run writes to the folder, so that missing files stay missing.
    """

    def __init__(self, out: Path, provenance: Row, kinds: "Sequence[Kind]", *, alone: bool) -> None:
        self.out, self.path, self.provenance, self.kinds = out, out / MANIFEST, provenance, kinds
        self._alone = alone
        self._rows: list[Row] = []
        self._new_rows: dict[tuple[bool, tuple[str, ...]], Row] = {}
        self._different: dict[int, list[str]] = {}
        self._replaced: dict[str, Row] = {}

    def begin(self, names: Sequence[str], *, resume: bool, force: bool) -> None:
        """Check existing files and add the new ones; arguments and errors as in `open_manifest`."""
        from drn_cli.inference.outputs import refuse_symlinks

        before = _read(self.out)
        if resume:
            self._check_unrecorded(before, names)
        left = self._left(before, set(names), resume)
        if left and not (force and self._alone):
            self._raise_mixed(before, left)
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
        """Write the provenance of maps that were replaced.

        Args:
            failed: Names of images that failed.

        Returns:
            The failed images that keep maps of another provenance.
        """
        lost = set(failed) & self._replaced.keys()
        if self._replaced:
            new = {name: self._row(None) for name in self._replaced}
            kept = {name: self._replaced[name] for name in lost}
            with _locked(self.out):
                _write(self.path, _read(self.out) | new | kept)
        return sorted(lost)

    def _row(self, before: Row | None) -> Row:
        """Return the new row of an image, given its earlier one."""
        other = before is not None and bool(self._differs(before))
        files = tuple(dict.fromkeys((*(before or {}).get("files", ()), *self.kinds)))
        row = self._new_rows.setdefault((other, files), {})
        row.update((UNKNOWN if other else self.provenance) | {"files": list(files)})
        return row

    def _differs(self, row: Row) -> list[str]:
        """Return the differences of a row, cached because images share rows."""
        if id(row) not in self._different:
            self._different[id(row)] = differences(row, self.provenance)
            self._rows.append(row)  # keeps its id from being reused
        return self._different[id(row)]

    def _left(self, before: dict[str, Row], wanted: set[str], resume: bool) -> dict[str, list[str]]:
        """Return the kinds of files of another provenance that would remain, by image name."""
        left = {}
        for name, row in before.items():
            different = self._differs(row)
            # Without --skip-existing, images of one network may have different views.
            if not different or (name not in wanted and not resume and "weights" not in different):
                continue
            redone = name in wanted and (not resume or row.get("network") is None) and self._alone
            stays = [kind for kind in row["files"] if not (redone and kind in self.kinds)]
            if not self._alone or any(path.exists() for path in _files(self.out, name, stays)):
                left[name] = stays
        return left

    def _raise_mixed(self, before: dict[str, Row], left: dict[str, list[str]]) -> None:
        name, kinds = next(iter(left.items()))
        different = " and ".join(self._differs(before[name]))
        if not self._alone:
            raise DrnError(
                f"{self.out}: another process writes predictions, and {self.path} has {name} with "
                f"different {different}",
                "wait until it has finished, or choose another --out",
            )
        images = "one image" if len(left) == 1 else f"{len(left)} images"
        raise DrnError(
            f"{_files(self.out, name, kinds)[0]}: made with different {different}; files of "
            f"{images} listed in {self.path} would remain next to the new ones",
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
                            f"{path}: not listed in {self.path}, so its provenance is unknown",
                            "leave out --skip-existing to replace it, or choose another --out",
                        )


def unfinished_images(out: Path) -> set[str]:
    """Return the names of images whose existing maps are of unknown provenance."""
    return {name for name, row in _read(out).items() if row.get("network") is None}


def _files(out: Path, name: str, kinds: Iterable[str]) -> list[Path]:
    from drn_cli.inference.outputs import output_path

    return [output_path(out, cast("Kind", kind), name) for kind in kinds]


def _read(out: Path) -> dict[str, Row]:
    """Return the row of each image; images share row objects."""
    from drn_cli.inference.outputs import KINDS

    path = out / MANIFEST
    if not path.is_file():
        return {}
    found = _object(path)
    if "images" not in found:
        return _read_older(out, found)
    table, images = found.get("made_by"), found["images"]
    if (
        isinstance(table, list)
        and isinstance(images, dict)
        and all(isinstance(row, dict) and isinstance(row.get("files"), list) for row in table)
        and all(set(map(str, row["files"])) <= set(KINDS) for row in table)
        and all(type(number) is int and 0 <= number < len(table) for number in images.values())
        and all(map(_is_below, images))
    ):
        return {name: table[number] for name, number in images.items()}
    raise _damaged(path)


def _read_older(out: Path, found: Row) -> dict[str, Row]:
    """Read the manifest of drn 0.1.0, which has one provenance for all maps."""
    from drn_cli.inference.outputs import ENDINGS

    images: dict[str, list[str]] = {}
    for kind, ending in ENDINGS.items():
        for path in sorted((out / kind).rglob(f"*{ending}")):
            name = str(path.relative_to(out / kind)).removesuffix(ending)
            if not path.name.startswith("."):
                images.setdefault(name, []).append(kind)
    return {name: found | {"files": kinds} for name, kinds in images.items()}


def _is_below(name: str) -> bool:
    """Whether a name in the manifest stays below the output folder."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


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


def _object(path: Path, hint: str = HINT) -> Row:
    try:
        found = read_json(path)
    except DrnError as error:
        raise DrnError(error.message, error.hint or hint) from error
    if not isinstance(found, dict):
        raise _damaged(path, hint)
    return found


def _damaged(path: Path, hint: str = HINT) -> DrnError:
    return DrnError(f"{path}: not a manifest of predictions", hint)
