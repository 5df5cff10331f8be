"""Entry point of `python -m drn_cli`, which torchrun runs, too."""

import os
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path


def _exclude_current_folder() -> None:
    """Import nothing from the current folder, in this process and in all that it starts.

    `python -m` and `python -c` put the current folder first in `sys.path`, so that a `yaml.py`
    beside the data would be imported: with `-m` in this process, with `-c` in each process that
    multiprocessing spawns. Empty and relative (`.`) entries of PYTHONPATH are removed, too; an
    absolute path to the current folder is kept.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [name for name in entries if os.path.normpath(name) != "."]
    if kept != entries and "PYTHONPATH" in os.environ:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    with suppress(FileNotFoundError):  # the current folder was removed
        current = str(Path.cwd())
        if not sys.flags.safe_path and sys.path[0] in ("", current):
            del sys.path[0]
        if current not in map(os.path.normpath, kept):
            sys.path[:] = [name for name in sys.path if name not in ("", ".", current)]
    if PathFinder.find_spec("drn_cli") is None:  # a source tree that is not installed
        tree = str(Path(__file__).resolve().parents[1])
        sys.path.append(tree)
        paths = [tree, *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)


_exclude_current_folder()

from drn_cli.cli.app import main  # noqa: E402 (after the change of sys.path)

if __name__ == "__main__":
    main()
