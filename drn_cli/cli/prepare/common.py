"""Progress bar and result of the verbs of `drn data prepare`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drn_cli.cli import console

if TYPE_CHECKING:
    from drn_cli.data.file_search import LeftOut
    from drn_cli.data.parallel import Progress
    from drn_cli.data.prepare.common import PrepareResult

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@contextmanager
def progress_bar(unit: str = "image") -> "Iterator[Progress]":
    """Show a progress bar; yield a function to call with the numbers done and in total."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def files_left_out(searched: "Mapping[str, LeftOut]") -> list[dict[str, object]]:
    """Return the files that searches of several folders left out, for JSON."""
    return [
        {"folder": folder, **one}
        for folder, left_out in searched.items()
        for one in left_out.to_json()
    ]


def report(made: "PrepareResult", as_json: bool, then: str, **more: Any) -> None:
    """Print the result and the next command; with --json the result and `more` of it."""
    if as_json:
        about = {"out": str(made.out), "images": dict(made.counts), "unchanged": made.unchanged}
        console.emit_json(about | more)
        return
    counts = ", ".join(f"{number} {split}" for split, number in made.counts.items())
    verb = "is up to date" if made.unchanged else "made"
    console.out.print(f"{made.out} {verb}: {counts}", soft_wrap=True)
    console.note(then)
