"""What a run measures, one JSON object a line."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from drn_cli.errors import DrnError
from drn_cli.files import open_append, parse_json, sync_folder, write_text

END = "end"  # kind of the line that says how a run ended


class MetricsLogger:
    """Appends to metrics.jsonl; only the first process has one that writes."""

    def __init__(self, path: Path, *, first: bool) -> None:
        self._path = path if first else None

    def keep_until(self, step: int, *, validated: bool = True) -> None:
        """Drop what was measured after a step: a resumed run measures it again.

        Args:
            step: The step that it goes on from.
            validated: Whether that includes a validation after this step.
        """
        if self._path is None or not self._path.is_file():
            return
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _step(line) <= (step, validated)]
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Write one line: `train`, `val` or `end`, the number of steps taken, and the values.

        Raises:
            DrnError: It cannot be written.
        """
        if self._path is None:
            return
        with self._opened() as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")

    def sync(self) -> None:
        """Wait until all lines are on the disk, as they should be before the next checkpoint is.

        Raises:
            DrnError: The disk failed.
        """
        if self._path is None or not self._path.is_file():
            return
        with self._opened() as file:
            os.fsync(file.fileno())
            sync_folder(self._path.parent)

    @contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        assert self._path is not None
        try:
            with open_append(self._path) as file:
                yield file
        except (OSError, DrnError) as error:
            reason = getattr(error, "strerror", None) or error
            problem = f"{self._path}: cannot be written: {reason}"
            raise DrnError(
                error.message if isinstance(error, DrnError) else problem,
                f"when that is mended, go on with: drn train --resume {self._path.parent}",
            ) from error


def _step(line: str) -> tuple[float, bool]:
    """Read after which step a line was written, and whether after its validation.

    Half a line, left by a crash, and the end are later than any.
    """
    try:
        record = parse_json(line, "")
        step = math.inf if record["kind"] == END else int(record["step"])
        return step, record["kind"] == "val"
    except (DrnError, ValueError, KeyError, TypeError):
        return math.inf, True
