"""A CSV file that is written whole at the end, from rows that survive the loss of the process."""

import csv
import glob
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from drn_cli.errors import DrnError
from drn_cli.files import csv_text, hidden_beside, locked, open_append, write_csv


def csv_lock(path: Path) -> AbstractContextManager[bool]:
    """Lock a CSV file and its parts against other runs, and create its folder.

    Raises:
        DrnError: Another run is writing it, or the folder is not writable.
    """
    busy = DrnError(
        f"{path}: another process is writing it", "wait for it, or choose another --csv"
    )
    return locked(hidden_beside(path, "lock"), busy)


class ResumableCsv:
    """Appends rows to a hidden part file per rank, and merges them into the CSV file at the end.

    Args:
        path: The CSV file.
        header: Its columns; the first one is the key of a row.
        rank: Rank of this process.
        resume: Keep the rows of the file and of existing parts; otherwise discard them.

    Attributes:
        known: Keys of the rows that are kept.
        earlier_rows: Number of existing rows; those with other columns are dropped by `finish`.

    Raises:
        DrnError: The existing file has other columns, or is not readable.
    """

    def __init__(self, path: Path, header: Sequence[str], rank: int, *, resume: bool) -> None:
        self.path, self.header = path, list(header)
        # The name is truncated if too long, at the same length for every rank.
        prefix = hidden_beside(path, f"{0:06}.part").name.removesuffix(f"{0:06}.part")
        self._part = path.with_name(f"{prefix}{rank}.part")
        self._parts = f"{glob.escape(prefix)}*.part"
        self._existing = [*([path] if path.is_file() else []), *path.parent.glob(self._parts)]
        if not resume:
            if rank == 0:
                for part in path.parent.glob(self._parts):
                    part.unlink()
            self._existing = []
        self.known: set[str] = set()
        self.earlier_rows = 0
        for row in self._rows(self._existing):
            self.earlier_rows += 1
            if len(row) == len(self.header):
                self.known.add(row[0])

    def begin(self) -> None:
        """Open the part of this rank; call it when all ranks have read the existing rows."""
        part = self._part
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            if part not in self._existing:
                part.unlink(missing_ok=True)
            self._file = open_append(part)
            os.truncate(self._file.fileno(), len(_whole_lines(part)))
        except OSError as error:
            raise DrnError(f"{part}: cannot be written: {error.strerror or error}") from error

    def add(self, row: Sequence[object]) -> None:
        """Append a row and flush it."""
        cells = (str(cell).encode(errors="backslashreplace").decode() for cell in row)
        cells = (cell.replace("\r", "\\r") for cell in cells)  # csv would not quote it
        csv.writer(self._file, lineterminator="\n").writerow(cells)
        self._file.flush()

    def end(self) -> None:
        """Close the part of this rank."""
        self._file.close()

    def finish(self, order: Sequence[str]) -> None:
        """Merge all parts into the CSV file and remove them; on one rank, after every `end`.

        Args:
            order: Keys of the rows, in the order of the file. Keys without a row are skipped.
        """
        parts = sorted(self.path.parent.glob(self._parts))
        kept = [path for path in self._existing if path not in parts]
        found = self._rows([*kept, *parts])
        rows = {row[0]: row for row in found if len(row) == len(self.header)}
        ordered = (rows[name] for name in dict.fromkeys([*order, *rows]) if name in rows)
        write_csv(self.path, self.header, ordered)
        for part in parts:
            part.unlink(missing_ok=True)

    def _rows(self, paths: Sequence[Path]) -> Iterator[list[str]]:
        for path in paths:
            try:
                text = _whole_lines(path).decode()
            except (OSError, UnicodeDecodeError) as error:
                raise DrnError(f"{path}: cannot be read: {error}") from error
            rows: Iterator[list[str]] = csv.reader(io.StringIO(text, newline=""))
            if path == self.path:  # parts hold the text unescaped
                rows = (list(map(csv_text, row)) for row in rows)
            if path == self.path and next(rows, None) != self.header:
                raise DrnError(
                    f"{path}: columns differ from {','.join(self.header)}",
                    "choose another --csv, or omit --skip-existing",
                )
            yield from filter(None, rows)


def _whole_lines(path: Path) -> bytes:
    """Return the content of a file up to the end of its last complete line."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]
