"""`python -m drn_cli`, which is also what torchrun starts."""

import os
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path


def _leave_out_current_folder() -> None:
    """Import nothing from the current folder, here and in every process that this one starts.

    `python -m` and `python -c` look there first, so that a `yaml.py` beside the data would run:
    with `-m` here, and with `-c` in each process that multiprocessing spawns. Empty parts of
    PYTHONPATH mean the current folder too; one that names it in full is meant.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [name for name in named if os.path.normpath(name) != "."]
    if kept != named and "PYTHONPATH" in os.environ:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    with suppress(FileNotFoundError):  # a current folder that was removed
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


_leave_out_current_folder()

from drn_cli.cli.app import main  # noqa: E402 (imports only what comes from elsewhere)

if __name__ == "__main__":
    main()
