"""Pillow kept from warning while pictures are opened, in any number of threads at once.

Python keeps one list of filters for all threads. Threads that each put back what they found would
put back the filters of one another.
"""

import os
import threading
import warnings
from types import TracebackType


class _Silence:
    """A context in which nothing warns. The first to come in changes the filters, for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings(action="ignore")
                self._before.__enter__()
            self._inside += 1

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


# Of large pictures well below the size that Pillow refuses, and of odd metadata.
silence = _Silence()
# Threads that were inside are not in the new process, and would not unlock it.
os.register_at_fork(after_in_child=silence.__init__)  # type: ignore[misc]
