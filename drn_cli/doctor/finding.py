"""What a check found: one line of the doctor's table."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        name: What was looked at.
        status: `failure`: something that drn needs does not work. `warning`: it works, but not as
            well as it could, or something that only some need is missing.
        found: In plain words.
        remedy: What to do about it.
    """

    name: str
    status: Status
    found: str
    remedy: str | None = None


def gigabytes(count: float) -> str:
    """Write bytes for people. On its own here: a doctor must not need what may be broken."""
    return f"{count / 1e9:.1f} GB"


def in_a_line(error: Exception | str) -> str:
    """Give the first line of what an exception or warning says, or at least its kind."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
