"""Whether files can be written in a folder, found out by writing one."""

import tempfile
from pathlib import Path


def why_not_writable(folder: Path) -> str | None:
    """Write a small file and remove it; give what the system says if that fails."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".drn-doctor-") as file:
            file.write(bytes(4096))  # a full disk still makes empty files
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def nearest(folder: Path) -> Path:
    """Give the folder, or the first above it that exists."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place
