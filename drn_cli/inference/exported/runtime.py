"""What the readers of all formats need: packages that may be missing, content, errors."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from drn_cli.errors import DrnError
from drn_cli.files import parse_json, read_bytes
from drn_cli.integrity import damaged
from drn_cli.interrupts import interrupts_later

LARGEST = 2 << 30  # bytes of a file, and what protobuf takes; the largest of ours have 0.25 GB


def need(package: str, extra: str, who: str) -> ModuleType:
    """Import a package of one of our extras.

    Args:
        package: Its name.
        extra: What installs it.
        who: What needs it: the error's beginning.

    Raises:
        DrnError: It is not installed.
    """
    try:
        with interrupts_later():  # a compiled module turns Ctrl-C into an error of its own
            return import_module(package)
    except ModuleNotFoundError as error:
        raise DrnError(
            f"{who}: needs {error.name}, which is not installed", f"pip install 'drn-cli[{extra}]'"
        ) from error


def content_of(path: Path) -> bytes:
    """Read a file, once: what is checked has to be what the runtime is shown.

    Raises:
        DrnError: It is no regular file, larger than 2 GiB, or cannot be read.
    """
    return read_bytes(path, LARGEST)


def refused(path: Path, what: str) -> DrnError:
    """Return the error for a file that holds what `drn export` does not write."""
    return DrnError(
        f"{path}: refused: holds {what}", "networks that `drn export` wrote can be used"
    )


def half_written(path: Path) -> DrnError:
    """Return the error for a file that an export, running or killed, is to replace with others."""
    return DrnError(
        f"{path}: an interrupted export left it and the files beside it half replaced",
        "run the export again: with --force",
    )


def strings_of(text: str, path: Path) -> dict[str, str]:
    """Return the metadata in a file's JSON.

    Raises:
        DrnError: It is not an object of strings.
    """
    found = parse_json(text, f"{path}: metadata")
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise damaged(path, "metadata: not an object of strings")
    return found
