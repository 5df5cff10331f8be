"""A CSV file that appears whole, from rows that outlive the process that found them."""

import csv
import glob
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from drn_cli.errors import DrnError
from drn_cli.files import csv_text, hidden_beside, locked, open_append, write_csv


def writing_table(path: Path) -> AbstractContextManager[bool]:
    """Exclude other runs from a CSV file and its parts, and make its folder.

    Raises:
        DrnError: Another run is writing it, or the folder cannot be written.
    """
    busy = DrnError(
        f"{path}: another process is writing it", "wait for it, or choose another --csv"
    )
    return locked(hidden_beside(path, "lock"), busy)


class ResumableCsv:
    """Rows go to a hidden part file beside the table, a line each, until all are known.

    Args:
        path: The CSV file.
        header: Its columns; the first one tells rows apart.
        rank: Which process this is; each has a part of its own.
        resume: Whether rows of the file and of parts that were left are kept, or thrown away.

    Attributes:
        known: The first column of the rows that are kept.
        earlier_rows: Number of rows there were; those of other columns go when it is written.

    Raises:
        DrnError: The file that is there has other columns, or cannot be read or written.
    """

    def __init__(self, path: Path, header: Sequence[str], rank: int, *, resume: bool) -> None:
        self.path, self.header, self.rank = path, list(header), rank
        # A name too long for the ending is cut short, at the same place for every rank.
        self._start = hidden_beside(path, f"{0:06}.part").name.removesuffix(f"{0:06}.part")
        self._parts = f"{glob.escape(self._start)}*.part"
        self._before = [*([path] if path.is_file() else []), *path.parent.glob(self._parts)]
        if not resume:
            if rank == 0:
                for part in path.parent.glob(self._parts):
                    part.unlink()
            self._before = []
        self.known: set[str] = set()
        self.earlier_rows = 0
        for row in self._rows(self._before):
            self.earlier_rows += 1
            if len(row) == len(self.header):
                self.known.add(row[0])

    def begin(self) -> None:
        """Open this process's part; to be called when every process has read what was there."""
        part = self._part
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            if part not in self._before:
                part.unlink(missing_ok=True)
            self._file = open_append(part)
            os.truncate(self._file.fileno(), _whole_lines(part))
        except OSError as error:
            raise DrnError(f"{part}: cannot be written: {error.strerror or error}") from error

    def add(self, row: Sequence[object]) -> None:
        """Add a row; it is kept even if the process is killed."""
        cells = (str(cell).encode(errors="backslashreplace").decode() for cell in row)
        cells = (cell.replace("\r", "\\r") for cell in cells)  # the writer would not quote it
        csv.writer(self._file, lineterminator="\n").writerow(cells)
        self._file.flush()

    def end(self) -> None:
        """Close this process's part."""
        self._file.close()

    def finish(self, order: Sequence[str]) -> None:
        """Write the table from all parts, and remove them; for one process, after all have ended.

        Args:
            order: The first column of its rows. Rows that are not there yet are left out.
        """
        parts = sorted(self.path.parent.glob(self._parts))
        kept = [path for path in self._before if path not in parts]
        found = self._rows([*kept, *parts])
        rows = {row[0]: row for row in found if len(row) == len(self.header)}
        wanted = (rows[name] for name in dict.fromkeys([*order, *rows]) if name in rows)
        write_csv(self.path, self.header, wanted)
        for part in parts:
            part.unlink(missing_ok=True)

    @property
    def _part(self) -> Path:
        return self.path.with_name(f"{self._start}{self.rank}.part")

    def _rows(self, paths: Sequence[Path]) -> Iterator[list[str]]:
        for path in paths:
            try:
                text = path.read_bytes()[: _whole_lines(path)].decode()
            except (OSError, UnicodeDecodeError) as error:
                raise DrnError(f"{path}: cannot be read: {error}") from error
            rows: Iterator[list[str]] = csv.reader(io.StringIO(text, newline=""))
            if path == self.path:  # parts hold the text as it is
                rows = (list(map(csv_text, row)) for row in rows)
            if path == self.path and next(rows, None) != self.header:
                raise DrnError(
                    f"{path}: has other columns than {','.join(self.header)}",
                    "choose another --csv, or leave out --skip-existing",
                )
            yield from filter(None, rows)


def _whole_lines(path: Path) -> int:
    """Give the length of a file up to the end of its last whole line, in bytes."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1
