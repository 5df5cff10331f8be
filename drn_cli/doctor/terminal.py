"""How what drn says will look."""

import codecs
import os
import shutil
import sys

from drn_cli.doctor.finding import Finding


def terminal() -> Finding:
    """Tell where output goes, and whether names in all languages can be written there."""
    found = []
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        kind = "a terminal" if stream.isatty() else "no terminal"
        found.append(f"{name} is {kind}, {stream.encoding}")
    if sys.stdout.isatty():
        found.append(f"{shutil.get_terminal_size().columns} columns")
    if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        found.append("no colours")
    text = "; ".join(found)
    encodings = [codecs.lookup(stream.encoding).name for stream in (sys.stdout, sys.stderr)]
    if all(encoding == "utf-8" for encoding in encodings):
        return Finding("terminal", "ok", text)
    return Finding(
        "terminal",
        "warning",
        f"{text}: names of files and classes may not be shown",
        "export LC_ALL=C.UTF-8, or PYTHONUTF8=1",
    )
