"""Packages that are not always there, and how they say that a file is broken."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from drn_cli.errors import DrnError
from drn_cli.files import parse_json, read_bytes

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


def damaged(path: Path, error: Exception | str) -> DrnError:
    """Say in one line that a runtime cannot read a file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO and PyTorch begin with places in their own code.
    telling = [
        line.partition("] . ")[2] if line.startswith("[enforce fail at ") else line
        for line in lines
        if not line.startswith(("Exception from ", "Check '"))
    ]
    reason = telling[0].split(". ")[0] if telling else type(error).__name__
    return DrnError(f"{path}: cannot be read: {reason}", "copy it again, or export it again")


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
