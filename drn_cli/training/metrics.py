"""Metrics of a run, one JSON object per line."""

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
    """Appends to metrics.jsonl.

    Args:
        path: The file.
        enabled: False writes nothing: all ranks but 0.
    """

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self._path = path if enabled else None

    def keep_until(self, step: int, *, validated: bool = True) -> None:
        """Drop the lines after a step, which a resumed run writes again.

        Args:
            step: The step of the checkpoint.
            validated: Whether to keep a validation after this step.
        """
        if self._path is None or not self._path.is_file():
            return
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _step(line) <= (step, validated)]
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Append a line of a kind (`train`, `val` or `end`).

        Raises:
            DrnError: It cannot be written.
        """
        if self._path is None:
            return
        with self._opened() as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")

    def sync(self) -> None:
        """Flush all lines to the disk; called before each checkpoint.

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
                f"fix this, then resume: drn train --resume {self._path.parent}",
            ) from error


def _step(line: str) -> tuple[float, bool]:
    """Return the step of a line, and whether it is a validation.

    An incomplete line, left by a crash, and the `end` line are later than any step.
    """
    try:
        record = parse_json(line, "")
        step = math.inf if record["kind"] == END else int(record["step"])
        return step, record["kind"] == "val"
    except (DrnError, ValueError, KeyError, TypeError):
        return math.inf, True
