"""The recipes that come with the package."""

from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from drn_cli.errors import DrnError

_SUFFIX = ".yaml"


def shipped_recipes() -> dict[str, Traversable]:
    """Give the shipped recipes that can be run, by name, in alphabetical order."""
    return {name: file for name, file in _all().items() if not name.startswith("_")}


def shipped_recipe(name: str) -> Traversable:
    """Find a shipped recipe, or one of the bases (`_camvid`) that they extend.

    Raises:
        DrnError: There is none of that name.
    """
    everything = _all()
    if name in everything:
        return everything[name]
    wanted = name.lower().replace("-", "_")
    runnable = shipped_recipes()
    # half a name is a fair guess: drn_d_105 or camvid
    longer = [known for known in runnable if wanted and wanted in known]
    close = longer[:3] or get_close_matches(wanted, runnable, n=1)
    hint = f"did you mean {' or '.join(close)}?" if close else "`drn recipes list` names them"
    raise DrnError(f"unknown recipe {name!r}", hint)


def _all() -> dict[str, Traversable]:
    installed = files("drn_cli") / "recipes"
    # in a checkout they lie beside the package; the wheel is built with them inside
    folder = installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "recipes"
    found = {
        file.name.removesuffix(_SUFFIX): file
        for file in folder.iterdir()
        if file.name.endswith(_SUFFIX)
    }
    return dict(sorted(found.items()))
